"""The geometry of weight updates, from their thin factors: numpy only, so that a process starts at once."""
