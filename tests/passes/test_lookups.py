"""Tables that are looked up, the heads tied to them, and what stands for both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.compare import compare
from tersor.ir.feeds import random_feeds
from tersor.ir.level import Level, Signature, violations
from tersor.ir.provenance import sources
from tersor.ir.shape_annotate import annotate
from tersor.ir.text import graph, lines
from tersor.passes.base import Candidate, Context, Miss, Pass, Several
from tersor.passes.clean.fold_constants import FoldConstants
from tersor.passes.edit import Array, Tape
from tersor.passes.embeddings.code_embedding import CodeEmbedding
from tersor.passes.embeddings.factorize_embedding import FactorizeEmbedding
from tersor.passes.embeddings.share_embedding import ShareEmbedding
from tersor.passes.factorize.factorize_tensor import FactorizeTensor
from tersor.passes.lookups import Table, counts, findings, mark, slow, standing, tables
from tersor.passes.replacing import Lookup, counted_from_zero, put
from tersor.passes.statistics import Calibration
from tersor.tests.support import ROUNDED, distance, inside_if, on_onnxruntime

IDS = {"ids": "int64[batch, time]"}
STATES = IDS | {"x": "float[batch, time, 8]"}
ROWS, WIDTH = 24, 8


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


T = normal(ROWS, WIDTH)


@dataclass(frozen=True)
class Product:
    """A table as the product of two: [rows, rank] and [rank, width]."""

    left: Array
    right: Array

    @classmethod
    def of(cls, table: Array) -> Product:
        return cls(table, np.eye(table.shape[1], dtype=table.dtype))

    def dense(self) -> Array:
        return self.left @ self.right

    @property
    def bytes(self) -> int:
        return self.left.nbytes + self.right.nbytes

    def rows(self, tape: Tape, ids: ir.Value, name: str) -> ir.Value:
        left, right = tape.weight(self.left, f"{name}_left"), tape.weight(self.right, f"{name}_right")
        return tape("MatMul", tape("Gather", left, ids, axis=0), right)

    def scores(self, tape: Tape, x: ir.Value, name: str) -> ir.Value:
        left, right = tape.weight(self.left, f"{name}_left"), tape.weight(self.right, f"{name}_right")
        narrow = tape("MatMul", x, tape("Transpose", right, perm=[1, 0]))
        return tape("MatMul", narrow, tape("Transpose", left, perm=[1, 0]))


@dataclass(frozen=True)
class Halves:
    """The even rows apart from the odd ones: what needs ids that count from zero."""

    table: Array

    def dense(self) -> Array:
        return self.table

    @property
    def bytes(self) -> int:
        return self.table.nbytes

    def rows(self, tape: Tape, ids: ir.Value, name: str) -> ir.Value:
        at = counted_from_zero(tape, ids, len(self.table))
        two = tape.constant(np.array(2, (ids.dtype or ir.DataType.INT64).numpy()))
        half, odd = tape("Div", at, two), tape("Cast", tape("Mod", at, two), to=ir.DataType.BOOL)
        even, other = (
            tape("Gather", tape.weight(self.table[k::2].copy(), f"{name}_{k}"), half, axis=0) for k in (0, 1)
        )
        return tape("Where", tape("Unsqueeze", odd, tape.constant([-1])), other, even)

    def scores(self, tape: Tape, x: ir.Value, name: str) -> ir.Value:
        even, odd = (tape.weight(self.table[k::2].copy(), f"{name}_{k}") for k in (0, 1))
        parts = [tape("MatMul", x, tape("Transpose", each, perm=[1, 0])) for each in (even, odd)]
        back = np.argsort(np.arange(len(self.table)).reshape(-1, 2).T.reshape(-1))
        return tape("Gather", tape("Concat", *parts, axis=-1), tape.weight(back, f"{name}_order"), axis=-1)


def fp16() -> ir.Model:
    return graph(
        "t = Cast{to=1}(h)", "e = Gather(t, ids)", "y = MatMul(e, w)", "u = Transpose{perm=[1, 0]}(t)",
        "z = MatMul(x, u)", inputs=STATES, outputs=["y", "z"], h=T.astype(np.float16), w=normal(8, 5),
    )  # fmt: skip


#: Graphs with one table, and how many lookups and heads it has.
MODELS: dict[str, tuple[Callable[[], ir.Model], int, int]] = {
    "alone": (lambda: graph("y = Gather(t, ids)", inputs=IDS, t=T), 1, 0),
    "int32": (lambda: graph("y = Gather(t, ids)", inputs={"ids": "int32[batch]"}, t=T), 1, 0),
    "one id": (lambda: graph("y = Gather(t, ids)", inputs={"ids": "int64[]"}, t=T), 1, 0),
    "twice": (
        lambda: graph("a = Gather(t, ids)", "b = Gather(t, k)", "y = Add(a, b)", inputs=IDS | {"k": IDS["ids"]}, t=T),
        2, 0,
    ),
    "turned": (lambda: graph("u = Transpose{perm=[1, 0]}(t)", "y = Gather(u, ids)", inputs=IDS, t=T.T.copy()), 1, 0),
    "tied": (
        lambda: graph(
            "e = Gather(t, ids)", "h = Tanh(e)", "u = Transpose{perm=[1, 0]}(t)", "l = MatMul(h, u)", "y = Add(l, b)",
            inputs=IDS, t=T, b=normal(ROWS),
        ),
        1, 1,
    ),
    "scored at once": (
        lambda: graph("e = Gather(t, ids)", "u = Transpose{perm=[1, 0]}(t)", "y = MatMul(e, u)", inputs=IDS, t=T), 1, 1,
    ),
    "gemm": (
        lambda: graph(
            "e = Gather(t, ids)", "y = Gemm{transB=1, alpha=0.5, beta=2.0}(e, t, b)", inputs={"ids": "int64[n]"}, t=T,
            b=normal(ROWS),
        ),
        1, 1,
    ),
    "gemm, turned": (
        lambda: graph(
            "e = Gather(t, ids)", "z = Tanh(e)", "y = Gemm{transB=1, transA=1}(x, t)",
            inputs={"ids": "int64[n]", "x": "float[8, m]"}, outputs=["y", "z"], t=T,
        ),
        1, 1,
    ),
    "from the left": (
        lambda: graph(
            "e = Gather(t, ids)", "v = Transpose{perm=[0, 2, 1]}(e)", "y = MatMul(t, v)", inputs=IDS, t=T,
        ),
        1, 1,
    ),
    "convolution": (
        lambda: graph(
            "e = Gather(t, ids)", "k = Unsqueeze(t, [-1])", "v = Transpose{perm=[0, 2, 1]}(e)", "y = Conv(v, k, b)",
            inputs=IDS, t=T, b=normal(ROWS),
        ),
        1, 1,
    ),
    "moved on the way": (
        lambda: graph(
            "p = Transpose{perm=[1, 0, 2]}(t)", "f = Reshape(p, [24, 8])", "e = Gather(f, ids)",
            "u = Transpose{perm=[1, 0]}(f)", "y = MatMul(e, u)",
            inputs=IDS, t=np.ascontiguousarray(T.reshape(3, 8, 8).transpose(1, 0, 2)),
        ),
        1, 1,
    ),
    "square": (
        lambda: graph(
            "e = Gather(t, ids)", "u = Transpose{perm=[1, 0]}(t)", "y = MatMul(e, u)", inputs=IDS, t=normal(8, 8),
        ),
        1, 1,
    ),
    "in halves": (fp16, 1, 1),
    "in a branch": (lambda: inside_if(graph("y = Gather(t, ids)", inputs=IDS, t=T)), 2, 0),
}  # fmt: skip


def one(model: ir.Model) -> Table:
    (found,) = tables(model)
    return found


def feeds_of(model: ir.Model) -> dict[str, np.ndarray]:
    feeds = random_feeds(model, seed=1)
    low = -8 if any(value.shape == (8, 8) for value in model.graph.initializers.values()) else -ROWS
    return {
        name: np.random.default_rng(0).integers(low, -low, array.shape, dtype=array.dtype)
        if array.dtype.kind == "i"
        else array
        for name, array in feeds.items()
    }


@pytest.mark.parametrize("name", MODELS)
def test_finds_the_table_with_all_that_reads_it(name: str) -> None:
    made, lookups, heads = MODELS[name]
    found = one(made())
    assert found.verdict() is None
    assert (len(found.lookups), len(found.heads)) == (lookups, heads)
    rows = 8 if name == "square" else ROWS
    assert (found.rows, found.width) == (rows, WIDTH)
    assert found.bytes == rows * WIDTH * (2 if name == "in halves" else 4)
    assert np.array_equal(found.dense(), normal(8, 8) if name == "square" else T.astype(found.dense().dtype))


@pytest.mark.parametrize("make", [Product.of, Halves])
@pytest.mark.parametrize("name", MODELS)
def test_what_stands_for_a_table_answers_as_it_did(name: str, make: Callable[[Array], Lookup]) -> None:
    model = MODELS[name][0]()
    found, after = one(model), model.clone()
    table = one(after)
    lookup = make(found.dense())
    put(table, lookup)
    annotate(after)
    assert violations(after, Level.SEMANTIC, signature=Signature.of(model)) == []
    assert all(value.shape is not None and value.type is not None for node in after.graph for value in node.outputs)
    stored = [value.const_value for name, value in after.graph.initializers.items() if name[1:].startswith("_")]
    assert sum(each.nbytes for each in stored if each.dtype.is_floating_point()) == lookup.bytes
    feeds = feeds_of(model)
    assert compare(model, after, feeds).within(ROUNDED[np.float32])
    assert distance(on_onnxruntime(after, feeds), on_onnxruntime(model, feeds)) < ROUNDED[np.float32]
    assert tables(after) == [] or all(each.weight is not table.weight for each in tables(after))


def test_new_nodes_stand_for_the_old_ones() -> None:
    model = MODELS["tied"][0]()
    put(one(model), Product.of(T))
    assert [sources(node) for node in model.graph if node.op_type == "Gather"] == [("e",)]


@pytest.mark.parametrize("make", [Product.of, Halves])
@pytest.mark.parametrize("name", MODELS)
def test_what_stands_for_a_table_is_no_table_to_take(name: str, make: Callable[[Array], Lookup]) -> None:
    model = MODELS[name][0]()
    put(one(model), make(one(model).dense()))
    annotate(model)
    assert all(standing(table.name, [table.node]) == table.verdict() is not None for table in tables(model, heads=True))


PASSES: dict[str, Pass] = {
    "factorize-tensor": FactorizeTensor(embeddings=True, smallest=1),
    "factorize-embedding": FactorizeEmbedding(heads="all", smallest=1, method="low-rank"),
    "code-embedding": CodeEmbedding(heads="all", smallest=1),
    "share-embedding": ShareEmbedding(heads="all", smallest=1),
}


@pytest.mark.parametrize("first", PASSES)
def test_what_one_pass_made_of_a_table_no_other_takes(first: str) -> None:
    model = graph(
        "e = Gather(t, ids)", "u = Transpose{perm=[1, 0]}(t)", "y = MatMul(e, u)", inputs=IDS, t=normal(512, 32)
    )
    assert PASSES[first].apply(model, Context()).matches == 1
    before = lines(model)
    for second in PASSES.values():
        outcome = second.apply(model, Context())
        assert {finding.miss.rule for finding in outcome.misses if finding.miss} <= {"factored", "quantized"}
        assert outcome.matches == 0 and lines(model) == before


def test_marks_reach_what_a_node_holds() -> None:
    model = inside_if(graph("y = Gather(t, ids)", inputs=IDS, t=T))
    (table,) = tables(model)
    assert table.verdict() is None
    mark(node for node in model.graph if node.op_type == "If")
    (table,) = tables(model)
    assert [miss.rule for miss in (table.verdict(),) if miss is not None] == ["factored"]


def test_a_head_is_timed_with_what_it_is_tied_to() -> None:
    asked = list[tuple[str, int]]()

    def pays(step: Pass, model: ir.Model, found: Candidate) -> Miss:
        assert isinstance(found, Several)
        asked.append((found.name, len(found.nodes)))
        return Miss("speed", "0.5", "a kernel at least as fast")

    step, context = FoldConstants(), Context(pays=pays)
    for name, told in (("alone", []), ("tied", [("t:embedding", 2)])):
        model = MODELS[name][0]()
        assert (slow(step, model, one(model), [one(model)], context) is None) == (not told)
        assert asked == told
        assert slow(step, model, one(model), [one(model)], Context()) is None


def test_a_head_of_its_own_is_as_long_as_a_vocabulary() -> None:
    model = graph(
        "e = Gather(t, ids)", "i = MatMul(e, v)", "r = Relu(i)", "h = MatMul(r, d)", "l = MatMul(h, w)",
        "a = Add(l, b)", "y = Softmax(a)",
        inputs=IDS, t=T, v=normal(WIDTH, ROWS), d=normal(ROWS, WIDTH), w=normal(WIDTH, ROWS, seed=1), b=normal(ROWS),
    )  # fmt: skip
    assert len(tables(model)) == 1
    _, head = tables(model, heads=True)
    assert head.weight.name == "w", "a layer inside is no head, however wide"
    assert np.array_equal(head.dense(), normal(WIDTH, ROWS, seed=1).T)
    before = model.clone()
    put(head, Product.of(head.dense()))
    assert compare(before, model, feeds_of(before)).within(ROUNDED[np.float32])


def overridden() -> ir.Model:
    model = graph("y = Gather(t, ids)", inputs=IDS, t=T)
    model.graph.inputs.append(model.graph.initializers["t"])
    return model


LEFT: dict[str, tuple[Callable[[], ir.Model], str]] = {
    "given out": (lambda: graph("y = Gather(t, ids)", inputs=IDS, outputs=["y", "t"], t=T), "output"),
    "overridden": (overridden, "weight"),
    "read otherwise": (
        lambda: graph("a = Gather(t, ids)", "s = ReduceSum(t)", "y = Add(a, s)", inputs=IDS, t=T), "read",
    ),
    "mixed rows": (
        lambda: graph("e = Gather(t, ids)", "s = MatMul(e, u)", "y = MatMul(s, t)", inputs=IDS, t=T,
                      u=normal(WIDTH, ROWS)),
        "read",
    ),
    "square, the other way": (
        lambda: graph("e = Gather(t, ids)", "y = MatMul(e, t)", inputs=IDS, t=normal(8, 8)), "read",
    ),
    "columns": (lambda: graph("y = Gather{axis=1}(t, ids)", inputs=IDS, t=T), "axis"),
    "columns too": (
        lambda: graph("y = Gather(t, ids)", "z = Gather{axis=1}(t, ids)", inputs=IDS, outputs=["y", "z"], t=T), "axis",
    ),
    "constant ids": (
        lambda: graph("y = Gather(t, ids)", "a = Gather(t, [0, 2])", "z = Neg(a)", inputs=IDS, outputs=["y", "z"], t=T),
        "ids",
    ),
    "quantized": (
        lambda: graph(
            "d = DequantizeLinear(t, s)", "y = Gather(d, ids)", inputs=IDS, t=np.ones((ROWS, WIDTH), np.int8),
            s=np.float32(0.1),
        ),
        "quantized",
    ),
    "not finite": (lambda: graph("y = Gather(t, ids)", inputs=IDS, t=T * np.float32("nan")), "finite"),
    "doubles": (lambda: graph("y = Gather(t, ids)", inputs=IDS, t=T.astype(np.float64)), "dtype"),
    "strides": (
        lambda: graph(
            "e = Gather(t, ids)", "k = Unsqueeze(t, [-1])", "v = Transpose{perm=[0, 2, 1]}(e)",
            "y = Conv{strides=[2]}(v, k)", inputs=IDS, t=T,
        ),
        "strides",
    ),
    "deeper": (
        lambda: graph(
            "e = Gather(t, ids)", "k = Unsqueeze(t, [0])", "v = Transpose{perm=[0, 2, 1]}(e)", "y = MatMul(k, v)",
            inputs=IDS, t=T,
        ),
        "head",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT)
def test_says_why_nothing_may_stand_for_a_table(name: str) -> None:
    made, rule = LEFT[name]
    miss = one(made()).verdict()
    assert miss is not None and miss.rule == rule


def test_a_table_that_nothing_looks_up_is_none() -> None:
    assert tables(graph("y = MatMul(x, t)", inputs={"x": f"float[batch, {ROWS}]"}, t=T)) == []


def test_options_leave_tables_out() -> None:
    table = one(MODELS["tied"][0]())
    assert [table.verdict(smallest=size) is None for size in (T.size, T.size + 1)] == [True, False]
    assert table.verdict(only=("t:embedding",)) is None
    assert table.verdict(only=("kind:linear",)) is None, "a pattern may fit a head"
    rules = [table.verdict(only=("w",)), table.verdict(ignore=("t*",)), table.verdict(ignore=("kind:embedding",))]
    assert [miss.rule for miss in rules if miss is not None] == ["only", "ignore", "ignore"]
    told = findings([(table, None)], {table: "half"}, ignore=("t*", "nothing"))
    assert [each.chosen for each in told] == ["half", ""]
    assert [each.miss.rule for each in told if each.miss is not None] == ["ignore"]


def test_counts_lookups_of_all_that_read_a_table() -> None:
    model = graph(
        "a = Gather(t, ids)", "b = Gather(t, k)", "c = Gather(o, k)", "s = Add(a, b)", "r = Add(s, c)",
        "y = MatMul(r, w)",
        inputs=IDS | {"k": IDS["ids"]}, t=T, o=normal(ROWS + 1, WIDTH), w=normal(WIDTH, ROWS),
    )  # fmt: skip
    first, second = np.array([[0, 1, 1]]), np.array([[5, -1, 0]])
    context = Context(calibration=Calibration([{"ids": first, "k": second}] * 2))
    found = tables(model, heads=True)
    table, other, head = found
    made = counts(model, found, context)
    assert dict(enumerate(made[table])) | {} == {
        row: {0: 4, 1: 4, 5: 2, ROWS - 1: 2}.get(row, 0) for row in range(ROWS)
    }
    assert made[other].sum() == 6
    assert np.array_equal(made[head], made[table])
    assert counts(model, found, Context()) == {}


def test_counts_no_ids_that_branches_compute() -> None:
    model = inside_if(graph("i = Abs(ids)", "y = Gather(t, i)", inputs=IDS, t=T))
    context = Context(calibration=Calibration([feeds_of(model)]))
    assert counts(model, tables(model), context) == {}
