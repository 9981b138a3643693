"""The toy base model: a world of word problems and the pre-training of a tiny model in it."""
