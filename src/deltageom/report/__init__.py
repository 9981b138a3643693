"""Figures, tables and the summary."""
