"""Attention from softmax and two products: heads, groups, caches and masks."""
