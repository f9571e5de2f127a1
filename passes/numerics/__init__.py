"""Numerical routines that several families share: plain functions on arrays."""
