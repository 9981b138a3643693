"""What some commands share, apart from cli/arguments.py, so that a change is a change of these alone."""
