"""What this project reaches on a GPU: `python -m benchmarks.gpu`; see docs/gpu.md."""
