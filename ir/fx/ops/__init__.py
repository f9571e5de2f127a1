"""The lowerings, one table per op family."""
