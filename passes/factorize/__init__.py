"""Factorising: weights as products of smaller ones."""
