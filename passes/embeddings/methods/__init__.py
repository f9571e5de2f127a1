"""Methods of embedding tables: plain functions on arrays."""
