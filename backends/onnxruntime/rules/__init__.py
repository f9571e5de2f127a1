"""Rewrites that only ONNX Runtime gains from."""
