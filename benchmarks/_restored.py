"""Models that ONNX Runtime optimized beforehand, and how near raising brings them to the ones they were made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import tersor
import torch
import transformers
from tersor.benchmarks._quiet import quiet
from tersor.benchmarks._zoo_entry import BATCH_SEQUENCE
from tersor.benchmarks._zoo_modules import Decoder, Encoder, Scorer, seeded
from tersor.examples.data import Feeds
from tersor.ir.runner import runner
from tersor.ir.save import save
from tersor.ir.text import spelled
from tersor.ir.trace import trace
from tersor.passes.base import Context
from tersor.passes.presets import RAISING
from torch import nn

VOCABULARY, HIDDEN, HEADS, GROUPS, LAYERS, INNER = 97, 64, 4, 2, 2, 128
WIDTH = HIDDEN // HEADS


@dataclass(frozen=True)
class Case:
    """A model: how it is made and traced, and what onnxruntime.transformers calls its kind."""

    module: Callable[[], nn.Module]
    kind: str
    past: int = 0
    """How many heads its cache has; 0 without one."""
    masked: bool = True
    scripted: bool = False
    """Whether torch's TorchScript exporter is asked, at opset 17, as it was when the optimizers were written."""

    def traced(self) -> tuple[nn.Module, tuple[object, ...], dict[str, dict[int, object]]]:
        """The module, example inputs and their dynamic axes."""
        ids = torch.arange(32).reshape(2, 16)
        dynamic: dict[str, dict[int, object]] = {"input_ids": dict(BATCH_SEQUENCE)}
        if not self.masked:
            return self.module(), (ids,), dynamic
        if not self.past:
            return self.module(), (ids, torch.ones_like(ids)), dynamic | {"attention_mask": dict(BATCH_SEQUENCE)}
        caches = [[torch.randn(2, self.past, 5, WIDTH) for _ in range(LAYERS)] for _ in range(2)]
        dynamic["attention_mask"] = {0: "batch", 1: "past + sequence"}
        for name in self._cached():
            dynamic[name] = {0: "batch", 2: ("past", 0, None)}
        few = torch.arange(6).reshape(2, 3)
        return self.module(), (few, torch.ones(2, 8, dtype=torch.long), *caches), dynamic

    def feeds(self) -> Feeds:
        """Two rows of five tokens, one of them padded, on top of four cached ones where there is a cache."""
        rng = np.random.default_rng(0)
        cached = 4 if self.past else 0
        found: dict[str, np.ndarray] = {"input_ids": rng.integers(3, VOCABULARY, (2, 5))}
        if self.masked:
            mask = np.ones((2, 5 + cached), np.int64)
            mask[1, slice(0, 2) if self.past else slice(-2, None)] = 0
            found["attention_mask"] = mask
        if self.past:
            size = (2, self.past, cached, WIDTH)
            found |= {name: rng.standard_normal(size).astype(np.float32) for name in self._cached()}
        return found

    def _cached(self) -> list[str]:
        return [f"past_{kind}_{layer}" for kind in ("keys", "values") for layer in range(LAYERS)]


def _bert() -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        intermediate_size=INNER, attn_implementation="eager",
    )  # fmt: skip
    return seeded(Encoder(transformers.BertModel(config, add_pooling_layer=False)))


def _gpt2() -> transformers.GPT2LMHeadModel:
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=HIDDEN, n_layer=LAYERS, n_head=HEADS, n_inner=INNER, bos_token_id=0,
        eos_token_id=0, attn_implementation="eager",
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def _llama() -> transformers.LlamaForCausalLM:
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=GROUPS, intermediate_size=INNER, attn_implementation="eager",
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def _t5() -> nn.Module:
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=HIDDEN, d_kv=WIDTH, d_ff=INNER, num_layers=LAYERS, num_heads=HEADS
    )
    torch.manual_seed(0)
    return seeded(Encoder(transformers.T5ForConditionalGeneration(config).encoder), spread=False)


CASES: Mapping[str, Case] = {
    "BERT": Case(_bert, "bert"),
    "BERT, TorchScript": Case(_bert, "bert", scripted=True),
    "GPT-2": Case(lambda: seeded(Scorer(_gpt2())), "gpt2", masked=False),
    "GPT-2, cached": Case(lambda: seeded(Decoder(_gpt2())), "gpt2", past=HEADS),
    "Llama": Case(lambda: seeded(Scorer(_llama())), "gpt2", masked=False),
    "Llama, cached": Case(lambda: seeded(Decoder(_llama())), "gpt2", past=GROUPS),
    "T5 encoder": Case(_t5, "t5"),
}


def exported(case: Case, path: Path) -> None:
    """The plain export, at opset 18; at 17 by the TorchScript exporter."""
    module, args, dynamic = case.traced()
    if not case.scripted:
        save(trace(module, args, dynamic=dynamic, opset=18), path)
        return
    with quiet():
        torch.onnx.export(
            module, args, str(path), dynamo=False, opset_version=17, input_names=list(dynamic),
            output_names=["last_hidden_state"], dynamic_axes=dynamic,
        )  # fmt: skip


def extended(case: Case, source: Path, target: Path) -> None:
    """ONNX Runtime's offline optimization at the extended level."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def transformers_optimizer(case: Case, source: Path, target: Path) -> None:
    """onnxruntime.transformers' optimizer, for the kind of model that it knows."""
    from onnxruntime.transformers import optimizer

    with quiet():
        optimized = optimizer.optimize_model(
            str(source), model_type=case.kind, num_heads=HEADS, hidden_size=HIDDEN, opt_level=0
        )
        optimized.save_model_to_file(str(target))


OPTIMIZERS: Mapping[str, Callable[[Case, Path, Path], None]] = {
    "extended": extended,
    "transformers": transformers_optimizer,
}


@dataclass(frozen=True)
class Restored:
    """One optimized model, raised.

    optimized: ops of other domains that the optimizer put in. difference: op -> how many more than the raised plain
    export has. error: the largest relative L2 error of an output, raised against ONNX Runtime running the optimized.
    """

    optimized: Counter[str]
    plain: int
    nodes: int
    difference: Mapping[str, int]
    error: float

    @property
    def left(self) -> int:
        """Nodes of other domains that are left."""
        return sum(count for op, count in self.difference.items() if op.startswith("com.microsoft."))


def restore(case: Case, optimizer: str, folder: Path) -> Restored:
    """Export, optimize and raise, files in `folder`."""
    source, target = folder / "plain.onnx", folder / f"{optimizer}.onnx"
    if not source.exists():
        exported(case, source)
    OPTIMIZERS[optimizer](case, source, target)
    plain, model = tersor.load(source), tersor.load(target)
    before = ops(model)
    for made in (plain, model):
        RAISING.apply(made, Context())
    wanted, found = ops(plain), ops(model)
    feeds = case.feeds()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    expected = onnxruntime.InferenceSession(str(target), options, providers=["CPUExecutionProvider"]).run(None, feeds)
    results = list(runner(model)(feeds).values())
    return Restored(
        Counter({op: count for op, count in before.items() if "." in op or op.startswith("Simplified")}),
        sum(wanted.values()),
        sum(found.values()),
        {op: found[op] - wanted[op] for op in sorted({*found, *wanted}) if found[op] != wanted[op]},
        max(_error(a, b) for a, b in zip(expected, results, strict=True)),
    )


def ops(model: ir.Model) -> Counter[str]:
    """How often each op occurs, subgraphs included."""
    return Counter(spelled(node) for node in model.graph.all_nodes())


def _error(expected: np.ndarray, found: np.ndarray) -> float:
    wide = np.float64(expected)
    return float(np.linalg.norm(wide - found) / max(float(np.linalg.norm(wide)), 1e-30))
