"""The masks of lottery tickets on traced models."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from tersor.driver.tickets.masks import everything, groups, pruned, shuffled, spread
from tersor.ir.compare import compare
from tersor.ir.errors import OptionError
from tersor.ir.feeds import random_feeds
from tersor.ir.load import load
from tersor.ir.text import graph
from tersor.passes.base import Context, Finding, Miss
from tersor.passes.pipeline import Pipeline
from tersor.passes.presets import RAISING
from tersor.passes.prune.prune_ticket import PruneTicket
from tersor.tests.passes.corpus_attention import X, normal
from tersor.tests.support import apply, holds, misses
from torch import Tensor, nn

UNTOLD = "a weight whose shape, reader or zeros tell which way round it is"
FLAT = {"x": "float[batch, 32]"}
HALF = np.random.default_rng(3).random((32, 32)) < 0.5
WIDE = np.random.default_rng(4).random((48, 32)) < 0.5


def written(path: Path, rows: tuple[str, ...] = (), **masks: object) -> str:
    """A file of masks."""
    held = {name.replace("__", "."): np.asarray(mask) for name, mask in masks.items()}
    np.savez(path / "masks.npz", **held, **{"tersor:rows": np.array(rows, np.str_)})  # type: ignore[arg-type]
    return str(path / "masks.npz")


def layer(name: str, shape: tuple[int, ...], text: str = "y = MatMul(x, {})") -> ir.Model:
    return graph(text.format(name), inputs=FLAT if "Gemm" in text else X, **{name: normal(*shape)})


def stored(model: ir.Model, name: str) -> np.ndarray:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def findings(model: ir.Model, masks: str, storage: str = "dense") -> tuple[Finding, ...]:
    return PruneTicket(masks=masks, storage=storage).apply(model, Context()).findings  # type: ignore[arg-type]


class Everything(nn.Module):
    """Layers whose weights are stored as they are, turned, joined and with their gates in another order."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.table = nn.Embedding(20, width)
        self.lstm = nn.LSTM(width, width, 2, bidirectional=True)
        self.gru = nn.GRU(2 * width, width)
        self.rnn = nn.RNN(width, width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.head = nn.Linear(width, 5)
        self.square = nn.Linear(width, width)
        self.pointwise, self.wide = nn.Conv1d(width, 4, 1), nn.Conv1d(width, 4, 3)

    def forward(self, ids: Tensor) -> tuple[Tensor, ...]:
        states = self.rnn(self.gru(self.lstm(self.table(ids))[0])[0])[0]
        states = self.attention(states, states, states, need_weights=False)[0] + self.square(states)
        turned = states.transpose(1, 2)
        return self.head(torch.relu(states)), self.pointwise(turned), self.wide(turned)


def traced(module: nn.Module) -> ir.Model:
    model = load(module, args=(torch.zeros(4, 6, dtype=torch.int64),))
    RAISING.apply(model, Context())
    return model


def pair(structured: bool) -> tuple[nn.Module, nn.Module, dict[str, np.ndarray]]:
    """A module, the same with half of its weights zero, chosen at random, and the masks."""
    torch.manual_seed(0)
    module = Everything().eval()
    for name, bias in module.named_parameters():
        if bias.ndim == 1:
            # a bias of zeros would be gone from the graph
            nn.init.uniform_(module.get_parameter(name))
    found = groups(module, structured=structured)
    kept = pruned(found, everything(found), module.state_dict(), 0.5, "layer")
    masks = spread(found, shuffled(kept, 0))
    sparse = copy.deepcopy(module)
    with torch.no_grad():
        for name, mask in masks.items():
            sparse.get_parameter(name).mul_(mask)
    return module, sparse, {name: mask.numpy() for name, mask in masks.items()}


ROWS = (
    "attention.out_proj.weight", "attention.in_proj_weight", "head.weight", "square.weight",
    *(f"rnn.weight_{kind}_l0" for kind in ("ih", "hh")),
)  # fmt: skip


class TestRewrites:
    def test_as_it_is_stored(self, tmp_path: Path) -> None:
        model = layer("w", (48, 32), "y = Gemm{{transB=1}}(x, {})")
        before = stored(model, "w").copy()
        (found,) = findings(model, written(tmp_path, w=WIDE))
        np.testing.assert_array_equal(stored(model, "w"), before * WIDE)
        gone = int((~WIDE).sum())
        assert (found.place, found.miss) == ("w", None)
        assert found.chosen == f"{gone / WIDE.size:.1%} pruned, {gone} of them were no zeros; stored dense"

    @pytest.mark.parametrize("name", ["a.weight", "a.weight.T"])
    def test_turned_by_its_shape(self, tmp_path: Path, name: str) -> None:
        model = layer(name, (32, 48))
        before = stored(model, name).copy()
        findings(model, written(tmp_path, a__weight=WIDE))
        np.testing.assert_array_equal(stored(model, name), before * WIDE.T)

    @pytest.mark.parametrize(("name", "text", "rows", "turned"), [
        ("a.weight.T", "y = MatMul(x, {})", (), True),
        ("a.weight", "y = MatMul(x, {})", ("a.weight",), True),
        ("a.weight", "y = Gemm{{transB=1}}(x, {})", ("a.weight",), False),
    ])  # fmt: skip
    def test_a_square_one_by_its_name_or_reader(
        self, tmp_path: Path, name: str, text: str, rows: tuple[str, ...], turned: bool
    ) -> None:
        model = layer(name, (32, 32), text)
        before = stored(model, name).copy()
        findings(model, written(tmp_path, rows, a__weight=HALF))
        np.testing.assert_array_equal(stored(model, name), before * (HALF.T if turned else HALF))

    def test_a_square_table_is_looked_up_by_rows(self, tmp_path: Path) -> None:
        model = graph("y = Gather(table, ids)", inputs={"ids": "int64[batch]"}, table=normal(32, 32))
        before = stored(model, "table").copy()
        findings(model, written(tmp_path, table=HALF))
        np.testing.assert_array_equal(stored(model, "table"), before * HALF)

    @pytest.mark.parametrize("turned", [False, True])
    def test_a_square_one_by_its_zeros(self, tmp_path: Path, turned: bool) -> None:
        """Nothing else tells of a parameter that no layer of torch has; storage shows that it was found."""
        model = layer("w", (32, 32))
        mask = HALF.T if turned else HALF
        model.graph.initializers["w"].const_value = ir.Tensor(stored(model, "w") * mask, name="w")
        (found,) = findings(model, written(tmp_path, w=HALF), "mask")
        assert found.miss is None and "0 of them were no zeros" in found.chosen

    def test_what_is_kept_and_a_mask_are_stored(self, tmp_path: Path) -> None:
        model = layer("w", (48, 32), "y = Gemm{{transB=1}}(x, {})")
        text = apply(PruneTicket(masks=written(tmp_path, w=WIDE)), model)
        assert any("Unmask" in line for line in text)
        assert "w" not in model.graph.initializers
        assert stored(model, "w_kept").size == WIDE.sum() + 1

    def test_of_a_branch(self, tmp_path: Path) -> None:
        from tersor.tests.support import inside_if

        model = inside_if(layer("w", (32, 48)))
        findings(model, written(tmp_path, w=WIDE))
        assert np.count_nonzero(stored(model, "w")) == WIDE.sum()


class TestLeavesAlone:
    @pytest.mark.parametrize(("given", "rows", "why"), [
        ({"v": HALF}, (), Miss("name", "v", "a weight of that name; known: w")),
        ({"w": WIDE[:, :30]}, (), Miss("shape", "w [48, 30]", "a mask of shape [32, 32], or turned")),
        ({"w": HALF[None]}, (), Miss("shape", "w [1, 32, 32]", "a mask of shape [32, 32], or turned")),
        ({"w": HALF}, (), Miss("turned", "w [32, 32]", UNTOLD)),
        ({"w": np.ones((32, 32), bool)}, ("w",), Miss("zeros", "0.0% pruned already", "weights that change")),
    ])  # fmt: skip
    def test_it(self, tmp_path: Path, given: Mapping[str, object], rows: tuple[str, ...], why: Miss) -> None:
        assert misses(PruneTicket(masks=written(tmp_path, rows, **given)), layer("w", (32, 32))) == [why]

    def test_weights_that_are_quantized(self, tmp_path: Path) -> None:
        model = graph(
            "w = DequantizeLinear(q, s)", "y = MatMul(x, w)", inputs=X, q=np.ones((32, 48), np.int8), s=np.float32(1)
        )
        assert misses(PruneTicket(masks=written(tmp_path, q=WIDE)), model) == [
            Miss("dtype", "int8", "floats; prune before quantizing")
        ]

    def test_weights_that_inputs_may_override(self, tmp_path: Path) -> None:
        model = layer("w", (32, 48))
        model.graph.inputs.append(model.graph.initializers["w"])
        assert misses(PruneTicket(masks=written(tmp_path, w=WIDE)), model) == [
            Miss("weight", "w", "an initializer that nobody may override")
        ]

    def test_everything_without_masks(self) -> None:
        model = layer("w", (32, 32))
        assert PruneTicket().apply(model, Context()).findings == ()

    @pytest.mark.parametrize(("name", "content", "told"), [
        ("none.npz", None, "cannot read masks from"), ("bad.npz", b"PK", "cannot read masks from"),
        ("few.npz", {"w": np.ones(3)}, r"expected booleans by the name of a parameter, found w \(float64\)"),
        ("empty.npz", {}, "found nothing"),
    ])  # fmt: skip
    def test_files_that_hold_no_masks_are_refused(
        self, tmp_path: Path, name: str, content: bytes | dict[str, np.ndarray] | None, told: str
    ) -> None:
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        elif content is not None:
            np.savez(tmp_path / name, **content)  # type: ignore[arg-type]
        with pytest.raises(OptionError, match=told):
            findings(layer("w", (32, 32)), str(tmp_path / name))


class TestHolds:
    @pytest.mark.parametrize("storage", ["dense", "mask"])
    @pytest.mark.parametrize("structured", [False, True])
    def test_every_layer_computes_what_the_sparse_module_does(
        self, tmp_path: Path, structured: bool, storage: str
    ) -> None:
        module, sparse, masks = pair(structured)
        given = written(tmp_path, tuple(name for name in ROWS if name in masks), **masks)
        model, wanted = traced(module), traced(sparse)
        feeds = random_feeds(wanted, seed=1)
        assert not compare(wanted, model, feeds).within(0.1)
        found = findings(model, given, storage)
        assert [finding for finding in found if finding.miss is not None] == []
        assert compare(wanted, model, feeds).within(1e-6)
        assert not any(finding.miss is None for finding in findings(model, given, storage)), "it fires again"

    def test_on_the_weights_that_a_ticket_was_trained_to(self, tmp_path: Path) -> None:
        model = layer("w", (48, 32), "y = Gemm{{transB=1}}(x, {})")
        model.graph.initializers["w"].const_value = ir.Tensor(stored(model, "w") * WIDE, name="w")
        assert holds(PruneTicket(masks=written(tmp_path, w=WIDE)), model) < 1e-12

    def test_options_go_through_text(self, tmp_path: Path) -> None:
        pipeline = Pipeline(steps=(PruneTicket(masks=str(tmp_path / "a-b.npz"), storage="dense"),))
        assert Pipeline.of(pipeline.text()) == pipeline
