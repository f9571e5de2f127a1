"""Quantizers as plain functions on arrays."""
