"""Calibration that goes on where it was stopped: what is kept, when it fits, and that nothing stale is ever used."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.errors import OptionError
from tersor.ir.text import graph
from tersor.passes import checkpoint
from tersor.passes.accumulator import Accumulator
from tersor.passes.accumulators import AbsMax, FeatureRange, Gram, Histogram, Range, TokenCounts
from tersor.passes.checkpoint import Checkpoints, digest_of_data
from tersor.passes.statistics import Calibration, Statistics, Want
from tersor.passes.views import Dims
from tersor.tests.support import inside_if, parse

RNG = np.random.default_rng(0)
W, V = (RNG.standard_normal((4, 4)).astype(np.float32) for _ in range(2))
BATCHES = [{"x": RNG.standard_normal((3, 4)).astype(np.float32)} for _ in range(5)]


def model(first: np.ndarray = W, second: np.ndarray = V) -> ir.Model:
    return graph(
        "h = MatMul(x, w)", "r = Relu(h)", "y = MatMul(r, v)", inputs={"x": "float[batch, 4]"}, w=first, v=second
    )


def value(made: ir.Model, name: str) -> ir.Value:
    return next(output for node in made.graph for output in node.outputs if output.name == name)


class Stopped(Exception):  # noqa: N818  # as an interrupt is none
    """What ends a run in the tests."""


def stop_after(batches: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done == batches:
            raise Stopped

    return progress


def gather(
    folder: Path,
    made: ir.Model | None = None,
    *,
    kinds: Sequence[type[Accumulator]] = (Gram,),
    batches: Sequence[dict[str, np.ndarray]] = BATCHES,
    at: str = "r",
    stop: int | None = None,
    every: float = 0.0,
    read: Mapping[str, object] | None = None,
) -> tuple[Statistics, list[int]]:
    """Gather with checkpoints; the statistics, and the number of batches done at each report. read: what else is said
    of how the rows are read."""
    made = model() if made is None else made
    told: list[int] = []
    halt = stop_after(-1 if stop is None else stop)

    def progress(done: int, total: int) -> None:
        told.append(done)
        halt(done, total)

    calibration = Calibration(batches, progress, checkpoints=Checkpoints(folder, every, patience=0))
    sizes = {kind: 0 if kind in (Range, Histogram) else 4 for kind in kinds}
    wants = [Want(value(made, at), kind, size, **(read or {})) for kind, size in sizes.items()]  # type: ignore[arg-type]
    return calibration.gather(made, wants), told


def stopped(folder: Path, after: int, **options: object) -> None:
    with pytest.raises(Stopped):
        gather(folder, stop=after, **options)  # type: ignore[arg-type]  # as gather takes them


KINDS = (Range, Histogram, FeatureRange, AbsMax, Gram)


def test_a_run_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    whole, _ = gather(tmp_path / "whole", kinds=KINDS)
    stopped(tmp_path / "kept", 3, kinds=KINDS)
    found, told = gather(tmp_path / "kept", kinds=KINDS)
    assert told == [3, 4, 5]
    for (_, one), (_, other) in zip(whole.found.items(), found.found.items(), strict=True):
        assert one.state().keys() == other.state().keys()
        for name, array in one.state().items():
            np.testing.assert_array_equal(other.state()[name], array)


@pytest.mark.parametrize(
    "made",
    [Range(), Histogram(16), FeatureRange(4), AbsMax(4), Gram(4), TokenCounts(4)],
    ids=lambda made: type(made).__name__,
)
def test_the_state_of_each_kind_restores(made: Accumulator) -> None:
    ids = isinstance(made, TokenCounts)
    arrays = [RNG.integers(0, 4, 9) if ids else RNG.standard_normal((6, 4)) for _ in range(3)]
    other = type(made)(*([16] if isinstance(made, Histogram) else [4] if vars(made).get("features", ids) else []))
    made.add(arrays[0])
    other.restore({name: array.copy() for name, array in made.state().items()})
    for array in arrays[1:]:
        made.add(array), other.add(array)
    assert made.state().keys() == other.state().keys() > {"count"}
    for name, array in made.state().items():
        np.testing.assert_array_equal(other.state()[name], array)
        assert type(getattr(other, name)) is type(getattr(made, name))


def test_a_run_that_was_done_is_not_run_again(tmp_path: Path) -> None:
    first, _ = gather(tmp_path)
    again, told = gather(tmp_path)
    assert told == [5]
    np.testing.assert_array_equal(*(found.of(next(iter(found.found)).value, Gram).matrix for found in (first, again)))


def test_what_lies_behind_the_values_does_not_matter(tmp_path: Path) -> None:
    stopped(tmp_path, 2)
    assert gather(tmp_path, model(second=V * 2))[1][0] == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"made": model(first=W * 2)},
        {"made": graph("h = MatMul(x, w)", "r = Elu(h)", "y = Neg(r)", inputs={"x": "float[batch, 4]"}, w=W)},
        {
            "made": graph(
                "h = MatMul(x, w)", "r = Relu(h)", "y = Neg(r)", inputs={"x": "float[batch, 4]"}, w=W, opset=18
            )
        },
        {"kinds": (AbsMax,)},
        {"kinds": (Gram, AbsMax)},
        {"at": "h"},
        {"batches": [*BATCHES[:4], {"x": BATCHES[4]["x"] + np.float32(1e-6)}]},
        {"batches": BATCHES[:4]},
        {"batches": BATCHES[::-1]},
    ],
    ids=["weight", "op", "opset", "kind", "kinds", "value", "number", "fewer", "order"],
)
def test_anything_else_is_another_run(tmp_path: Path, changed: dict[str, object]) -> None:
    stopped(tmp_path, 2)
    assert gather(tmp_path, **changed)[1][0] == 0  # type: ignore[arg-type]  # as gather takes them
    assert gather(tmp_path)[1][0] == 2, "and the first is still there"


def test_attributes_and_subgraphs_count(tmp_path: Path) -> None:
    def leaky(alpha: float) -> ir.Model:
        lines = (f"h = LeakyRelu{{alpha={alpha}}}(x)", "r = Neg(h)")
        return inside_if(graph(*lines, inputs={"x": "float[batch, 4]"}))

    batches = [{**batch, "cond": np.array(True)} for batch in BATCHES]
    stopped(tmp_path, 2, made=leaky(0.1), batches=batches)
    assert gather(tmp_path, leaky(0.2), batches=batches)[1][0] == 0
    assert gather(tmp_path, leaky(0.1), batches=batches)[1][0] == 2


def test_bodies_of_functions_count(tmp_path: Path) -> None:
    def calling(op: str) -> ir.Model:
        body = f'<domain: "pkg", opset_import: ["" : 23]> Mine (a) => (b) {{ b = {op} (a) }}'
        return parse("g (float[batch, 4] x) => (float[batch, 4] y) { r = pkg.Mine (x)  y = Neg (r) }", functions=body)

    stopped(tmp_path, 2, made=calling("Relu"))
    assert gather(tmp_path, calling("Abs"))[1][0] == 0
    assert gather(tmp_path, calling("Relu"))[1][0] == 2


@pytest.mark.parametrize("other", ["float[4] {2.0, 2.0, 2.0, 3.0}", "float[1, 4] {2.0, 2.0, 2.0, 2.0}"])
def test_tensors_among_attributes_count(tmp_path: Path, other: str) -> None:
    def scaled(by: str) -> ir.Model:
        return parse(
            f"""g (float[batch, 4] x) => (float[batch, 4] y) {{
                c = Constant <value = {by}> ()
                r = Mul (x, c)
                y = Neg (r)
            }}"""
        )

    one = "float[4] {2.0, 2.0, 2.0, 2.0}"
    stopped(tmp_path, 2, made=scaled(one))
    assert gather(tmp_path, scaled(other))[1][0] == 0
    assert gather(tmp_path, scaled(one))[1][0] == 2


@dataclass(frozen=True)
class Part:
    """Some of the features."""

    features: int

    def __call__(self, array: np.ndarray, dims: Dims) -> tuple[np.ndarray, Dims]:
        return array[..., : self.features], dims


@pytest.mark.parametrize(
    ("one", "other"),
    [({}, {"axis": 0}), ({}, {"view": Part(2)}), ({"view": Part(2)}, {"view": Part(3)})],
    ids=["axis", "view", "views"],
)
def test_how_rows_are_read_counts(tmp_path: Path, one: dict[str, object], other: dict[str, object]) -> None:
    stopped(tmp_path, 2, kinds=(Range,), read=one)
    assert gather(tmp_path, kinds=(Range,), read=other)[1][0] == 0
    assert gather(tmp_path, kinds=(Range,), read=one)[1][0] == 2


def test_what_is_padding_counts(tmp_path: Path) -> None:
    """Nodes behind the value say whether an input is a mask, and with that which rows count."""
    inputs = {"x": "float[batch, sequence, 4]", "mask": "int64[batch, sequence]"}
    lines = ("r = MatMul(x, w)", "b = Cast{to=9}(mask)", "m = Unsqueeze(b, last)")
    weights = {"w": W, "last": [-1], "zero": 0.0}
    masked = graph(*lines, "y = Where(m, r, zero)", inputs=inputs, outputs=["y"], **weights)
    plain = graph(*lines[:1], "y = Neg(r)", inputs=inputs, outputs=["y"], w=W)
    batches = [{"x": batch["x"][None], "mask": np.array([[1, 1, 0]])} for batch in BATCHES]
    stopped(tmp_path, 2, made=masked, batches=batches)
    assert gather(tmp_path, plain, batches=batches)[1][0] == 0
    assert gather(tmp_path, masked, batches=batches)[1][0] == 2


def test_versions_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(tmp_path, 2)
    for changed in ("tersor", "torch"):
        with monkeypatch.context() as patch:
            patch.setattr(
                checkpoint, "version", lambda name, changed=changed: "0" if name == changed else version(name)
            )
            assert gather(tmp_path)[1][0] == 0
    assert gather(tmp_path)[1][0] == 2


def test_data_of_the_same_bytes_are_told_apart() -> None:
    zeros = [np.zeros(4, np.float32), np.zeros((2, 2), np.float32), np.zeros(4, np.int32)]
    digests = [digest_of_data([{name: array}]) for array in zeros for name in ("x", "z")]
    assert len(set(digests)) == 6
    assert digest_of_data([{"x": zeros[0].copy()}]) == digests[0]


def test_outputs_of_one_node_are_different_values(tmp_path: Path) -> None:
    def half(name: str) -> ir.Model:
        lines = ("(a, b) = Split{axis=1, num_outputs=2}(x)", f"r = Relu({name})", "y = Add(a, b)")
        return graph(*lines, inputs={"x": "float[batch, 4]"})

    stopped(tmp_path, 2, made=half("a"), kinds=(Range,))
    assert gather(tmp_path, half("b"), kinds=(Range,))[1][0] == 0


def test_a_damaged_file_is_started_over(tmp_path: Path) -> None:
    stopped(tmp_path, 3)
    (file,) = tmp_path.glob("*.npz")
    whole = file.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole.replace(b"NUMPY", b"NUMPI"), _flipped(whole)):
        file.write_bytes(damaged)
        assert gather(tmp_path)[1] == [0, 1, 2, 3, 4, 5]


def _flipped(whole: bytes) -> bytes:
    """The bytes with one inside the largest array changed."""
    place = whole.index(b"matrix.npy") + 200
    return whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]


def test_it_is_written_no_more_often_than_told(tmp_path: Path) -> None:
    stopped(tmp_path, 4, every=1e6)
    assert not list(tmp_path.iterdir())
    gather(tmp_path, every=1e6)
    assert len(list(tmp_path.iterdir())) == 1, "the end of a run is always written"


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OptionError, match=r"cannot write .*file: .*choose another folder to resume from"):
        Checkpoints(tmp_path / "file")


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_checkpoint import BATCHES, KINDS, model, value
from tersor.passes.checkpoint import Checkpoints
from tersor.passes.statistics import Calibration, Want
import time

def slowly(done, total):
    print(done, flush=True)
    time.sleep(0.05 if done < 3 else 60)

made = model()
Calibration(BATCHES, slowly, checkpoints=Checkpoints(Path(sys.argv[1]), 0.0, 0)).gather(
    made, [Want(value(made, "r"), kind, 0 if kind.__name__ in ("Range", "Histogram") else 4) for kind in KINDS]
)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_process_that_was_killed_is_gone_on_from(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(line.strip() == "3" for line in process.stdout)
        process.kill()
    found, told = gather(tmp_path, kinds=KINDS)
    assert told == [3, 4, 5]
    whole, _ = gather(tmp_path / "other", kinds=KINDS)
    for one, other in zip(whole.found.values(), found.found.values(), strict=True):
        for name, array in one.state().items():
            np.testing.assert_array_equal(other.state()[name], array)
