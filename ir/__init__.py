"""What a model is, where it comes from, what is known about it."""
