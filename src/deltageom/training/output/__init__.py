"""The files that a training leaves."""
