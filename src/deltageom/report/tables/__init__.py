"""Records to tables, one file per subject."""
