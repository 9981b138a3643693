"""What a study's jobs are and cost, and whether this machine has what they need."""
