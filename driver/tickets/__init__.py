"""Lottery tickets: masks, training under them, what a search has found, and where it stood when it was stopped."""
