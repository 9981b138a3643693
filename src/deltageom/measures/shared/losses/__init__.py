"""Losses of texts at points of the space that runs' updates span."""
