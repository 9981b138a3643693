"""Problem sets: files, the hub, the toy's world; what training shares with benchmarks."""
