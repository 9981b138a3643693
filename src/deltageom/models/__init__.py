"""The base model and its tokenizer."""
