"""Embeddings: tables of words that take fewer numbers, and the heads that are tied to them."""
