"""Runs that sample while they train."""
