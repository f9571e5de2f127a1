"""The executable form: `onnx_ir.Model` to `torch.fx.GraphModule`, one table per op family."""
