"""`deltageom compare`: any adapters and whole models, without a study."""
