"""What several methods share: which rows and pairs they see, and terms of their losses."""
