"""The models of `compile_time.py` as files: exports of torch at opset 18 with the weights beside the graph.

The largest, a Llama of 24 layers and 1.3 B parameters, is traced with weights of one number each that strides of zero
spread over their shapes. What is then written has numbers in every byte, no two weights alike, and is never in memory
as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from tersor.examples import minilm
from tersor.ir.save import save
from tersor.ir.trace import trace

#: Bytes that weights are written in.
BLOCK = 1 << 20


def _minilm(path: Path) -> None:
    source = minilm.source()
    save(trace(source.module, source.args, dynamic=source.dynamic, opset=18), path)


def _bert(path: Path) -> None:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    ids = torch.ones(2, 7, dtype=torch.int64)
    module = BertModel(BertConfig()).eval()
    names = {0: "batch", 1: "sequence"}
    made = trace(
        module,
        (),
        {"input_ids": ids, "attention_mask": ids.clone()},
        {"input_ids": names, "attention_mask": names},
        opset=18,
    )
    save(made, path)


def _gpt2(path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    ids = torch.ones(2, 7, dtype=torch.int64)
    module = GPT2LMHeadModel(GPT2Config(use_cache=False)).eval()
    names = {0: "batch", 1: "sequence"}
    save(trace(module, (), {"input_ids": ids}, {"input_ids": names}, opset=18), path)


def _llama(path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    settings = LlamaConfig(
        hidden_size=2048,
        intermediate_size=5504,
        num_hidden_layers=24,
        num_attention_heads=16,
        num_key_value_heads=16,
        vocab_size=32000,
        use_cache=False,
    )
    with torch.device("meta"):
        module = LlamaForCausalLM(settings).eval()
    module.model.rotary_emb = LlamaRotaryEmbedding(settings).eval()
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            # one number, read everywhere
            part.register_parameter(name, torch.nn.Parameter(torch.zeros(1).expand(parameter.shape), False))
    ids = torch.ones(2, 7, dtype=torch.int64)
    names = {0: "batch", 1: "sequence"}
    shapes = {"input_ids": {axis: torch.export.Dim(name) for axis, name in names.items()}}
    program = torch.export.export(module, (), {"input_ids": ids}, dynamic_shapes=shapes, strict=False)
    write_weights(trace(program, dynamic={"input_ids": names}, opset=18), path)


def write_weights(model: ir.Model, path: Path, *, small: int = 1 << 12) -> None:
    """Save a model whose large initializers have no numbers yet, with numbers drawn for them in a file beside it."""
    random = np.random.default_rng(0)
    block = random.normal(0.0, 0.02, BLOCK // 4 + 1).astype(np.float32)
    data, offset = path.with_suffix(".onnx.data"), 0
    with data.open("wb") as file:
        for number, value in enumerate(model.graph.initializers.values()):
            tensor = value.const_value
            if tensor is None or tensor.nbytes < small or tensor.dtype != ir.DataType.FLOAT:
                continue
            value.const_value = ir.ExternalTensor(
                data.name, offset, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=value.name or "",
                base_dir=str(path.parent),
            )  # fmt: skip
            left = tensor.nbytes
            turned = np.roll(block, number * 977).tobytes()
            while left:
                left -= file.write(turned[: min(left, len(turned))])
            offset += tensor.nbytes
            padding = -offset % 4096
            offset += file.write(bytes(padding))
    ir.save(model, path)


#: Name -> what writes the model to a path.
MODELS: Mapping[str, Callable[[Path], None]] = {
    "MiniLM": _minilm,
    "BERT-base": _bert,
    "GPT-2 small": _gpt2,
    "Llama 1.3 B": _llama,
}
