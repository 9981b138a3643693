"""What the measures compute: models and arrays in, numbers out."""
