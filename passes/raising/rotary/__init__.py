"""Rotary position embeddings from their arithmetic."""
