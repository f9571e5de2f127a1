"""Control flow: bodies run step by step in the interpreter, as torch.cond, while_loop and scan under export."""
