"""Pruning: fewer neurons, heads, layers, dimensions, words, and weights that are zero."""
