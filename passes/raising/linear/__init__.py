"""Linear layers in one spelling."""
