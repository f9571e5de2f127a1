"""tersor: a graph compiler."""
