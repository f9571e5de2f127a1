"""A table and an output head that hold the same numbers, stored once; layers that an exporter wrote one by one."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import tersor
import torch
from tersor.ir.feeds import random_feeds
from tersor.ir.load import load
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.presets import RAISING
from tersor.passes.report import Size
from tersor.passes.share.loop_layers import LoopLayers
from tersor.passes.share.share_identical import ShareIdentical
from tersor.tests.support import REORDERED, apply, distance, holds, installed
from torch import Tensor, nn

TABLE = np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32)
BACKENDS = ("onnxruntime", "openvino", "torch")


def tied(head: str = "y = MatMul(e, h)", numbers: np.ndarray | None = None) -> ir.Model:
    own = TABLE.T.copy() if numbers is None else numbers
    return graph("e = Gather(t, i)", head, inputs={"i": "int64[n]"}, t=TABLE, h=own)


class TestTransposed:
    def test_a_head_reads_the_table(self) -> None:
        model = tied()
        expected = ["e = Gather(t, i)", "y/Transpose = Transpose{perm=[1, 0]}(t)", "y = MatMul(e, y/Transpose)"]
        assert apply(ShareIdentical(transposed=True), model) == expected
        assert Size.of(model).bytes == TABLE.nbytes

    @pytest.mark.parametrize(
        ("head", "found"),
        [
            ("y = Gemm(e, h)", "y = Gemm{transB=1}(e, t)"),
            ("u = Transpose{perm=[1, 0]}(h)\ny = Of(e, u)", "y = Of(e, t)"),
        ],
    )
    def test_without_a_node_that_turns_it(self, head: str, found: str) -> None:
        model = graph("e = Gather(t, i)", *head.split("\n"), inputs={"i": "int64[n]"}, t=TABLE, h=TABLE.T.copy())
        assert apply(ShareIdentical(transposed=True), model)[1:] == [found]

    def test_a_head_that_is_no_transpose(self) -> None:
        model = tied("y = Gemm{transB=1}(e, h)", TABLE.copy())
        assert apply(ShareIdentical(), model)[1:] == ["y = Gemm{transB=1}(e, t)"]

    @pytest.mark.parametrize("why", ["not asked for", "one element", "a lookup", "an output"])
    def test_leaves_alone(self, why: str) -> None:
        numbers = TABLE.T.copy()
        if why == "one element":
            numbers[3, 5] += 1
        model = tied("y = Gather(h, i)" if why == "a lookup" else "y = MatMul(e, h)", numbers)
        if why == "an output":
            model.graph.outputs.append(model.graph.initializers["h"])
        outcome = ShareIdentical(transposed=why != "not asked for").apply(model, Context())
        assert not outcome.matches
        assert set(model.graph.initializers) == {"t", "h"}

    def test_a_symmetric_matrix_is_its_own(self) -> None:
        model = graph("y = MatMul(x, w)", inputs={"x": "float[n, 4]"}, w=np.eye(4, dtype=np.float32))
        assert not ShareIdentical(transposed=True).apply(model, Context()).matches

    def test_holds(self) -> None:
        assert holds(ShareIdentical(transposed=True), tied(), {"n": 5}) == 0.0

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_an_artifact_has_it_once(self, backend: str, tmp_path: Path) -> None:
        sizes, answers = [], []
        table = np.random.default_rng(1).standard_normal((4000, 64)).astype(np.float32)
        for passes in ("", "share-identical{transposed=true}"):
            model = graph("e = Gather(t, i)", "y = MatMul(e, h)", inputs={"i": "int64[n]"}, t=table, h=table.T.copy())
            made = compiled(model, backend, tmp_path / f"{len(sizes)}", passes)
            sizes.append(size_of(made))
            answers.append(list(made.session.run({"i": np.arange(7)}).values()))
        assert sizes[0] - sizes[1] > 0.95 * table.nbytes
        assert distance(answers[1], answers[0]) < REORDERED


class TestComputed:
    def test_weights_that_come_out_equal(self) -> None:
        def lazy(name: str, number: float) -> ir.Value:
            tensor = ir.LazyTensor(
                lambda: ir.Tensor(np.full(4, number, np.float32)),
                dtype=ir.DataType.FLOAT,
                shape=ir.Shape([4]),
                name=name,
            )
            return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)

        model = graph(
            "a = Add(x, w)",
            "b = Add(a, v)",
            "y = Add(b, u)",
            inputs={"x": "float[4]"},
            **dict.fromkeys("wvu", TABLE[0, :4]),
        )
        for name, number in zip("wvu", (1.0, 1.0, 2.0), strict=True):
            model.graph.initializers[name].const_value = lazy(name, number).const_value
        assert not ShareIdentical().apply(model.clone(), Context()).matches
        assert apply(ShareIdentical(computed=True), model) == ["a = Add(x, w)", "b = Add(a, w)", "y = Add(b, u)"]


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        split = [each(x).unflatten(-1, (4, -1)).transpose(1, 2) for each in (self.query, self.key, self.value)]
        mixed = nn.functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(-2)
        x = self.norm(x + self.out(mixed))
        found: Tensor = self.after(x + self.down(nn.functional.gelu(self.up(x))))
        return found


class Albert(nn.Module):
    """A random ALBERT: one layer as often as there are layers, each a copy, so that the exporter writes all of them."""

    def __init__(self, layers: int = 6, width: int = 64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, first = nn.Embedding(100, width), Block(width)
        with torch.no_grad():
            for parameter in first.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        self.layers = nn.ModuleList(copy.deepcopy(first) for _ in range(layers))

    def forward(self, ids: Tensor) -> Tensor:
        x: Tensor = self.table(ids)
        for each in self.layers:
            x = each(x)
        return x


def exported(folder: Path) -> Path:
    """The model as torch's exporter writes it, every layer's weights stored."""
    ids = torch.arange(12).reshape(2, 6)
    axes = {"ids": {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}}
    program = torch.onnx.export(Albert().eval(), (ids,), dynamo=True, dynamic_shapes=axes, optimize=True, verbose=False)
    assert program is not None
    path = folder / "albert.onnx"
    program.save(path, external_data=False)
    return path


def compiled(model: object, backend: str, folder: Path, passes: str = "") -> tersor.Artifact:
    installed(backend)
    return tersor.compile(
        model, target=f"{backend}{{threads=1}}", passes=passes, output=folder, verify="off", size_first=True
    )


def size_of(made: tersor.Artifact) -> int:
    return sum(file["bytes"] for file in made.manifest["files"] if file["role"] == "model")


@pytest.fixture(scope="module")
def albert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("albert"))


class TestAlbert:
    def test_six_layers_become_one(self, albert: Path) -> None:
        stored = Size.of(load(albert)).bytes
        model = load(albert)
        RAISING.apply(model, Context())
        one = sum(parameter.numel() * 4 for parameter in Block(64).parameters())
        table = 100 * 64 * 4
        # small vectors the exporter stores once itself
        assert stored > 0.98 * (6 * one + table)
        assert one + table <= Size.of(model).bytes < one + table + 1024

    def test_and_a_loop(self, albert: Path) -> None:
        model = load(albert)
        RAISING.apply(model, Context())
        assert LoopLayers().apply(model, Context()).matches == 1

    @pytest.mark.parametrize("passes", ["", "loop-layers"])
    @pytest.mark.parametrize("backend", BACKENDS)
    def test_stored_once_and_exactly(self, albert: Path, backend: str, passes: str, tmp_path: Path) -> None:
        feeds = random_feeds(load(albert), {"batch": 2, "sequence": 5})
        expected = Albert().eval()(torch.from_numpy(feeds["ids"])).detach().numpy()
        made = compiled(albert, backend, tmp_path / "once", passes)
        assert distance(list(made.session.run(feeds).values()), [expected]) < REORDERED
        weights = sum(parameter.numel() * 4 for parameter in Block(64).parameters())
        # beside the weights lies what each backend says about the graph
        assert size_of(made) < albert.stat().st_size - 4 * weights
