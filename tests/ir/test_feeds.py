"""Random feeds follow from what the graph does with an input; wrong feeds are refused in one paragraph."""

from __future__ import annotations

import numpy as np
import onnx_ir
import pytest
from numpy.typing import NDArray
from tersor.ir.dimensions import set_ranges
from tersor.ir.errors import ModelError, OptionError
from tersor.ir.feeds import check_feeds, random_feeds
from tersor.ir.level import Signature
from tersor.ir.text import graph

TABLE = np.zeros((40, 4), np.float32)


def one(*lines: str, kind: str = "int64[batch, sequence]", **constants: object) -> NDArray[np.generic]:
    """The feed of the input `i` of a small graph, for 64 rows."""
    model = graph(*lines, inputs={"i": kind, "x": "float[batch, sequence]"}, **constants)
    names = {"batch": 64} if "batch" in kind else {}
    return random_feeds(model, names)["i"]


@pytest.mark.parametrize(
    ("lines", "rows"),
    [
        (("y = Gather(table, i)",), 40),
        (("c = Cast{to=INT32}(i)", "u = Unsqueeze(c, [1])", "y = Gather(table, u)"), 40),
        (("y = Gather(table, i)", "z = Gather(small, i)"), 3),
        (("y = Gather{axis=1}(table, i)",), 4),
        (("n = Add(i, 2)", "y = Gather(table, n)"), 38),
        (("s = Slice(i, [0], [4], [1])", "y = Gather(table, s)"), 40),
        (("n = Concat{axis=1}(i, [[1]])", "y = Gather(table, n)"), 40),
        (("y = OneHot(i, 7, [0.0, 1.0])",), 7),
        (("e = Equal(i, 1)", "f = Cast{to=FLOAT}(e)", "y = Gather(table, i)"), 40),
        (("r = Relu(table)", "y = Gather(r, i)"), 40),
    ],
    ids=[
        "table",
        "cast",
        "two tables",
        "columns",
        "offset",
        "slice",
        "concat",
        "one hot",
        "padding id",
        "computed table",
    ],
)
def test_indices_stay_below_the_rows(lines: tuple[str, ...], rows: int) -> None:
    found = one(*lines, table=TABLE, small=TABLE[:3])
    assert found.dtype == np.int64 and found.min() >= 0
    assert found.max() == rows - 1  # 1024 draws meet the last row


@pytest.mark.parametrize(
    "lines",
    [
        ("y = Cast{to=BOOL}(i)",),
        ("f = Cast{to=FLOAT}(i)", "y = Sub(1.0, f)"),
        ("u = Unsqueeze(i, [1, 2])", "y = Equal(u, 0)"),
        ("t = Cast{to=BOOL}(i)", "y = Where(t, x, 0.0)"),
        ("y = GreaterOrEqual(i, 1)",),
        ("y = com.microsoft.MultiHeadAttention{num_heads=1}(x, x, x, _, i)",),
    ],
    ids=["bool", "one minus", "equal", "where", "greater", "attention"],
)
def test_masks_are_padded_on_the_right(lines: tuple[str, ...]) -> None:
    mask = one(*lines)
    assert mask.dtype == np.int64 and set(np.unique(mask)) == {0, 1}
    assert mask[0].all() and mask[:, 0].all()
    assert (np.diff(mask, axis=1) <= 0).all()  # once zero, always zero


def test_a_mask_of_truth_values() -> None:
    mask = one("y = Where(i, x, 0.0)", kind="bool[batch, sequence]")
    assert mask.dtype == np.bool_ and mask[0].all() and not mask.all()


def test_a_number_that_is_only_compared_is_that_number() -> None:
    assert one("y = Equal(i, 16000)", kind="int64[]") == 16000


def test_lengths_reach_up_to_the_sequence() -> None:
    weights = {"w": np.ones((1, 3, 2), np.float32), "r": np.ones((1, 3, 3), np.float32)}
    model = graph(
        "y = RNN{hidden_size=3}(x, w, r, _, n)", inputs={"x": "float[9, batch, 2]", "n": "int32[batch]"}, **weights
    )
    lengths = random_feeds(model, {"batch": 50})["n"]
    assert lengths.dtype == np.int32 and lengths[0] == lengths.max() == 9 and lengths.min() >= 1


def test_inside_a_function_and_a_branch() -> None:
    model = onnx_ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 23, "tersor" : 1]>
        g (int64[8] ids, bool c) => (float[8, 2] y) <float[3, 2] table = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}> {
            y = If(c) <then_branch = t () => (float[8, 2] a) { a = tersor.Look(table, ids) },
                       else_branch = e () => (float[8, 2] b) { b = tersor.Look(table, ids) }>
        }
        <domain: "tersor", opset_import: ["" : 23]>
        Look (table, i) => (v) { v = Gather(table, i) }
    """)
    assert random_feeds(model)["ids"].max() == 2


@pytest.mark.parametrize("kind", ["float", "double", "float16", "bfloat16"])
def test_floats_are_standard_normal(kind: str) -> None:
    name = kind.upper()
    found = random_feeds(graph("y = Relu(i)", inputs={"i": f"{kind}[100, 100]"}))["i"]
    assert found.dtype == onnx_ir.DataType[name].numpy()
    wide = found.astype(np.float64)
    # the mean of 10,000 draws has a standard deviation of 0.01
    assert abs(wide.mean()) < 0.05 and abs(wide.std() - 1) < 0.05


def test_bytes_use_their_whole_range() -> None:
    found = random_feeds(graph("y = Cast{to=FLOAT}(i)", inputs={"i": "uint8[100, 100]"}))["i"]
    assert found.dtype == np.uint8 and found.max() == 255 and found.min() == 0


def test_the_seed_decides() -> None:
    model = graph("y = Relu(i)", inputs={"i": "float[4]"})
    first, again, other = (random_feeds(model, seed=seed)["i"] for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()


def test_sizes_are_as_given_else_small_and_in_range() -> None:
    model = graph("y = Add(i, j)", inputs={"i": "float[batch, sequence, 3]", "j": "float[batch, sequence, ?]"})
    assert random_feeds(model)["i"].shape == (2, 16, 3)
    assert random_feeds(model, {"sequence": 5})["j"].shape == (2, 5, 16)
    assert random_feeds(model, {"j_dim_2": 3})["j"].shape == (2, 16, 3)
    set_ranges(model, {"batch": (4, None), "sequence": (1, 8)})
    assert random_feeds(model)["i"].shape == (4, 8, 3)


def test_a_size_that_follows_from_others() -> None:
    model = graph("y = Mul(i, j)", inputs={"i": "float[b, past]", "j": "float[b, past + 1]"})
    assert random_feeds(model, {"past": 3})["j"].shape == (2, 4)


def test_refuses_an_unknown_dimension() -> None:
    with pytest.raises(OptionError, match="no dynamic dimension 'bacth'; did you mean batch"):
        random_feeds(graph("y = Relu(i)", inputs={"i": "float[batch]"}), {"bacth": 3})


@pytest.mark.parametrize(("kind", "message"), [("string[2]", "no feeds can be made up"), ("float", "has no shape")])
def test_refuses_what_cannot_be_made_up(kind: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        random_feeds(graph("y = Identity(i)", inputs={"i": kind}))


SIGNATURE = Signature.of(
    graph(
        "y = Add(ids, mask)",
        inputs={"ids": "int64[batch, sequence]", "mask": "int64[batch, sequence]", "v": "float[3]"},
    )
)


def feeds(**other: NDArray[np.generic] | None) -> dict[str, NDArray[np.generic]]:
    good: dict[str, NDArray[np.generic] | None] = {name: np.zeros((2, 8), np.int64) for name in ("ids", "mask")}
    good |= {"v": np.zeros(3, np.float32), **other}
    return {name: array for name, array in good.items() if array is not None}


def test_good_feeds_pass() -> None:
    check_feeds(SIGNATURE, feeds(), {"sequence": (2, 512), "batch": (1, None), "unused": (1, 1)})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ids": None}, "'ids' is missing"),
        ({"msk": np.zeros(1)}, "'msk' is no input .did you mean mask"),
        ({"ids": np.zeros((2, 8), np.int32)}, r"'ids' is int32, not int64 .convert it with .astype\('int64'\)"),
        ({"ids": np.zeros(8, np.int64)}, r"'ids' has 1 axes \[8\], not 2"),
        ({"v": np.zeros(4, np.float32)}, "'v' has size 4 on axis 0, not 3"),
        ({"mask": np.zeros((2, 9), np.int64)}, "sequence is 8 in 'ids' and 9 in 'mask'"),
    ],
)
def test_refuses_feeds_that_do_not_fit(changed: dict[str, NDArray[np.generic] | None], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check_feeds(SIGNATURE, feeds(**changed), {})


@pytest.mark.parametrize(
    ("allowed", "message"), [((1, 4), r"sequence 8, outside 1\.\.4"), ((9, None), r"outside 9\.\.")]
)
def test_refuses_a_size_out_of_range(allowed: tuple[int, int | None], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check_feeds(SIGNATURE, feeds(), {"sequence": allowed})


def test_names_everything_at_once() -> None:
    with pytest.raises(ModelError) as caught:
        check_feeds(SIGNATURE, feeds(ids=None, v=np.zeros(3)), {})
    text = str(caught.value)
    assert "'ids' is missing" in text and "'v' is float64" in text and "ids: int64[batch, sequence]" in text


def test_random_feeds_pass_the_check(data_dir: object) -> None:
    for path in sorted((data_dir / "models" / "silero_vad").glob("*.onnx")):  # type: ignore[operator]
        model = onnx_ir.load(path)
        check_feeds(Signature.of(model), random_feeds(model), {})
