"""Graphs with one table of words, and what tests of passes that let others stand for it share."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import ml_dtypes
import numpy as np
import onnx_ir as ir
from tersor.ir.level import Level, Signature, violations
from tersor.ir.runner import runner
from tersor.ir.text import graph
from tersor.passes.base import Context, Miss
from tersor.passes.embeddings.embedding_pass import EmbeddingPass, Stand
from tersor.passes.lookups import tables
from tersor.passes.replacing import Lookup
from tersor.passes.run import Verify, run_pipeline
from tersor.passes.statistics import Calibration
from tersor.tests.support import ROUNDED, distance, inside_if, installed, on_onnxruntime

IDS = {"ids": "int64[batch, time]"}
WORDS, WIDTH = 256, 16


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


T = normal(WORDS, WIDTH)
B = normal(WORDS)


def lookup(table: np.ndarray = T) -> ir.Model:
    return graph("y = Gather(t, ids)", inputs=IDS, t=table)


def tied(table: np.ndarray = T) -> ir.Model:
    return graph(
        "e = Gather(t, ids)", "h = Tanh(e)", "u = Transpose{perm=[1, 0]}(t)", "l = MatMul(h, u)", "y = Add(l, b)",
        inputs=IDS, outputs=["e", "y"], t=table, b=normal(len(table)),
    )  # fmt: skip


def untied(table: np.ndarray = T) -> ir.Model:
    return graph(
        "e = Gather(t, ids)",
        "h = Tanh(e)",
        "y = MatMul(h, w)",
        inputs=IDS,
        t=table,
        w=np.ascontiguousarray(table[::-1].T),
    )


def of_any_rank() -> ir.Model:
    """A lookup of ids of which not even the axes are known."""
    model = graph("i = Reshape(ids, s)", "y = Gather(t, i)", inputs={"ids": "int64[n]", "s": "int64[r]"}, t=T)
    for value in (model.graph.node(0).outputs[0], model.graph.outputs[0]):
        value.shape = None
    return model


MODELS: dict[str, Callable[[], ir.Model]] = {
    "lookup": lookup,
    "tied": tied,
    "int32": lambda: graph("y = Gather(t, ids)", inputs={"ids": "int32[batch]"}, t=T),
    "one id": lambda: graph("y = Gather(t, ids)", inputs={"ids": "int64[]"}, t=T),
    "twice": lambda: graph(
        "a = Gather(t, ids)", "n = Neg(ids)", "b = Gather(t, n)", "y = Sub(a, b)", inputs={"ids": "int64[n]"}, t=T
    ),
    "gemm": lambda: graph(
        "e = Gather(t, ids)", "y = Gemm{transB=1, alpha=0.5, beta=2.0}(e, t, b)", inputs={"ids": "int64[n]"}, t=T, b=B
    ),
    "gemm, turned": lambda: graph(
        "e = Gather(t, ids)",
        "v = Transpose{perm=[1, 0]}(e)",
        "y = Gemm{transA=1, transB=1}(v, t)",
        inputs={"ids": "int64[n]"},
        t=T,
    ),
    "from the left": lambda: graph(
        "e = Gather(t, ids)", "v = Transpose{perm=[0, 2, 1]}(e)", "y = MatMul(t, v)", inputs=IDS, t=T
    ),
    "convolution": lambda: graph(
        "e = Gather(t, ids)",
        "k = Unsqueeze(t, [-1])",
        "v = Transpose{perm=[0, 2, 1]}(e)",
        "y = Conv(v, k, b)",
        inputs=IDS,
        t=T,
        b=B,
    ),
    "in a branch": lambda: inside_if(tied()),
    "any rank": of_any_rank,
}


def feeds_of(model: ir.Model, name: str) -> dict[str, np.ndarray]:
    """Ids of both signs."""
    shapes = {"int32": (5,), "one id": (), "twice": (7,), "gemm": (5,), "gemm, turned": (5,), "any rank": (6,)}
    shape = shapes.get(name, (3, 4))
    ids = np.random.default_rng(0).integers(1 - WORDS, WORDS, shape)
    feeds = {"cond": np.array(True), "ids": ids.astype(np.int32 if name == "int32" else np.int64)}
    feeds["s"] = np.array([2, 3])
    return {value.name: feeds[value.name] for value in model.graph.inputs if value.name in feeds}


def calibrated(*batches: Mapping[str, np.ndarray]) -> Context:
    return Context(calibration=Calibration([dict(each) for each in batches]))


def zipf(count: int = 4000, words: int = WORDS) -> dict[str, np.ndarray]:
    """Ids that are rarer the greater they are."""
    drawn = np.minimum(np.random.default_rng(0).zipf(1.3, count), words) - 1
    return {"ids": drawn.reshape(1, -1)}


def with_table(model: ir.Model, table: np.ndarray) -> ir.Model:
    """The model with these numbers in its table."""
    for scope in (model.graph, *model.graph.subgraphs()):
        for name, value in scope.initializers.items():
            if name == "t":
                value.const_value = ir.Tensor(table, name="t")
    return model


def stored(model: ir.Model, name: str = "t") -> int:
    """Bytes of what stands for a table."""
    scopes = (model.graph, *model.graph.subgraphs())
    every = {key: value for scope in scopes for key, value in scope.initializers.items()}
    return sum(value.const_value.nbytes for key, value in every.items() if key.startswith(f"{name}_"))


def stand(made: EmbeddingPass, table: np.ndarray = T, context: Context | None = None) -> Lookup:
    """What the pass lets stand for a table."""
    model = lookup(table)
    (found,) = tables(model)
    planned = dict(made.planned(model, context or Context()))
    assert found.name in {each.name for each in planned}
    (only,) = planned.values()
    assert isinstance(only, Stand), only
    return only.lookup


def check_answers(made: EmbeddingPass, name: str) -> None:
    """What is made of a model answers as with the table that stands there, stores what it says, and fires once."""
    model, like = MODELS[name](), stand(made)
    feeds, after = feeds_of(model, name), model.clone()
    outcome = made.apply(after, Context())
    assert outcome.matches == 1, outcome.findings
    assert violations(after, Level.SEMANTIC, signature=Signature.of(model)) == []
    assert stored(after) == like.bytes < T.nbytes
    expected = on_onnxruntime(with_table(model, like.dense()), feeds)
    assert distance(on_onnxruntime(after, feeds), expected) < ROUNDED[np.float32]
    again = made.apply(after, Context())
    assert again.matches == 0
    assert {finding.miss.rule for finding in again.misses if finding.miss is not None} <= {"factored"}


def check_half(made: EmbeddingPass, dtype: type, **options: object) -> None:
    """Scores in half precision are off by what rounding products and sums once each leaves, however many are added."""
    table = normal(WORDS, 64).astype(dtype)
    model = graph(
        "e = Gather(t, ids)", "u = Transpose{perm=[1, 0]}(t)", "y = MatMul(e, u)",
        inputs=IDS, outputs=["e", "y"], t=table,
    )  # fmt: skip
    after, feeds = model.clone(), {"ids": np.arange(WORDS)[None]}
    assert made.apply(after, Context()).matches == 1
    assert violations(after, Level.SEMANTIC, signature=Signature.of(model)) == []
    assert after.graph.outputs[1].dtype is model.graph.outputs[1].dtype
    found, dense = runner(after)(feeds), stand(made, table).dense().astype(np.float64)
    expected = [dense[feeds["ids"]], found["e"].astype(np.float64) @ dense.T]
    assert distance([found["e"], found["y"]], expected) < float(ml_dtypes.finfo(dtype).eps)


def check_half_tables(made: EmbeddingPass) -> None:
    """Tables in half precision that are read in single: stored in half, answers as of the table that stands there."""
    table = T.astype(np.float16)
    for lines in (
        ["u = Transpose{perm=[1, 0]}(t32)", "z = MatMul(e, u)"],
        ["x = Transpose{perm=[0, 2, 1]}(e)", "z = MatMul(t32, x)"],
    ):
        model = graph("t32 = Cast{to=1}(t)", "e = Gather(t32, ids)", *lines, inputs=IDS, outputs=["e", "z"], t=table)
        after, feeds = model.clone(), feeds_of(model, "tied")
        assert made.apply(after, Context()).matches == 1
        assert violations(after, Level.SEMANTIC, signature=Signature.of(model)) == []
        kept = after.graph.initializers.items()
        stored_in = {each.dtype for name, each in kept if name.startswith("t") and each.dtype.is_floating_point()}
        assert stored_in == {ir.DataType.FLOAT16}
        expected = on_onnxruntime(with_table(model, stand(made, table).dense()), feeds)
        assert distance(on_onnxruntime(after, feeds), expected) < float(np.finfo(np.float16).eps)


def check_ratio(made: EmbeddingPass) -> None:
    """What stands there takes no more than the ratio of the bytes, or a miss says that it would."""
    (found,) = dict(made.planned(lookup(), Context())).values()
    if isinstance(found, Miss):
        assert found.rule == "ratio"
    else:
        assert made.ratio is not None and found.lookup.bytes <= made.ratio * T.nbytes


def check_backend(made: EmbeddingPass, backend: str) -> None:
    """A backend computes what ONNX Runtime does with the table that stands there."""
    target = installed(backend)
    model, feeds = tied(), {"ids": np.array([[0, 5, -1, 200], [255, 1, 1, 7]])}
    expected = on_onnxruntime(with_table(tied(), stand(made).dense()), feeds)
    made.apply(model, Context())
    run_pipeline(target.pipeline(), model, verify=Verify.OFF, undo=False)
    found = target.compile(model).run(feeds)
    assert distance([*found.values()], expected) < 10 * ROUNDED[np.float32]


#: Graphs whose table stays whatever the method, and the rule that says so.
LEFT: dict[str, tuple[Callable[[], ir.Model], dict[str, object], str]] = {
    "given out": (lambda: graph("y = Gather(t, ids)", inputs=IDS, outputs=["y", "t"], t=T), {}, "output"),
    "read otherwise": (
        lambda: graph("a = Gather(t, ids)", "s = ReduceSum(t)", "y = Add(a, s)", inputs=IDS, t=T), {}, "read",
    ),
    "along columns": (lambda: graph("y = Gather{axis=1}(t, ids)", inputs=IDS, t=T), {}, "axis"),
    "small": (lookup, {"smallest": WORDS * WIDTH + 1}, "size"),
    "not chosen": (lookup, {"only": ("w",)}, "only"),
    "ignored": (lookup, {"ignore": ("kind:embedding",)}, "ignore"),
    "a head that stays": (tied, {"heads": "none"}, "heads"),
    "no room": (lookup, {"ratio": 1e-3}, "ratio"),
    "not finite": (lambda: lookup(T * np.float32("inf")), {}, "finite"),
    "whole numbers": (lambda: lookup(T.astype(np.float64)), {}, "dtype"),
}  # fmt: skip
