"""One run: its rows, its batches, TRL's trainers, what it leaves."""
