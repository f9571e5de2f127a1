"""The way back: a GraphModule that torch.fx holds, or torch.export made, as an ONNX model again."""
