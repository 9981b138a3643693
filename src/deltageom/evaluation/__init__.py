"""Answers to benchmarks: made, scored, compared and exported."""
