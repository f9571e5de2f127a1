"""How a model is rewritten."""
