"""TorchInductor, compiled ahead of time."""
