"""Real kernels for low-bit products, and the torch.fx passes that bring a graph to them."""
