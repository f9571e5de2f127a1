"""Methods of factorising: plain functions on arrays."""
