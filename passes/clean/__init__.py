"""Clean-up: what no model needs and no reader wants to see."""
