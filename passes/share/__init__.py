"""One weight for several readers."""
