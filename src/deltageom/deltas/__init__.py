"""A run's weight update, read straight from safetensors, without torch."""
