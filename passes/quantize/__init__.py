"""Fewer bits a number."""
