"""Derived runs as a study writes them: recipes, and the checks that stop a bad one before the first job."""
