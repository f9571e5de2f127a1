"""What every backend's lowering ends with."""
