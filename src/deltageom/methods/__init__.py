"""One file per method, found by its name: what it selects, its options and its loss. Nothing to register."""
