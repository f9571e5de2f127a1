"""Normalization over features from its arithmetic."""
