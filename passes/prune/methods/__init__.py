"""Methods: plain functions on arrays that say what to prune, and what the rest should become."""
