"""GPUs and memory: what there is, what is free, what fits."""
