"""Completions by one engine behind a small interface, kept in shards."""
