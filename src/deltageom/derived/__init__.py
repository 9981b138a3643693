"""Runs that are computed from the weight updates of other runs, and not trained."""
