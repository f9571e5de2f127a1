"""Fewer and larger ops: what any runtime gains from."""
