"""Embeddings: every spelling of a lookup in a table as the one `Gather`, and lookups of one row as that row."""
