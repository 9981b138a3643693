"""What every run trains on: sampled or imported completions, graded."""
