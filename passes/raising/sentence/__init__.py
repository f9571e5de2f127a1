"""What stands at the ends of sentence encoders."""
