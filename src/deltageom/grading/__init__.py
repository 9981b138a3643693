"""Whether an answer is right, by two graders."""
