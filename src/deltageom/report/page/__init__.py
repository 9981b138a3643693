"""The report of a study as one interactive page: a file that is opened from disk and asks nothing of anyone."""
