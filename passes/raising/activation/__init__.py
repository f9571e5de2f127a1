"""Activations and gated units by what they compute."""
