"""The commands that the workflow's rules call, one file per command."""
