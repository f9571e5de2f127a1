"""Bad calibration data, through the whole of `tersor compile`: an error that helps, or a fallback that holds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import tersor
from tersor.driver.data import remarks
from tersor.ir.compare import compare
from tersor.ir.runner import runner
from tersor.ir.text import graph
from tersor.passes.pipeline import Pipeline
from tersor.passes.verify import allowed, worst_loss
from tersor.tests.driver.support import Cli, Ran

RNG = np.random.default_rng(0)
MIX = RNG.standard_normal((6, 32))

Batch = dict[str, np.ndarray]


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


MODEL = graph(
    "h = MatMul(x, up)",
    "r = Relu(h)",
    "y = MatMul(r, down)",
    inputs={"x": "float[batch, 32]"},
    up=normal(32, 48),
    down=normal(48, 32),
)


def rows(count: int = 16) -> np.ndarray:
    """Rows of few directions, as activations are."""
    return (RNG.standard_normal((count, 6)) @ MIX).astype(np.float32) + np.float32(0.1) * normal(count, 32)


def dead() -> Batch:
    x = rows()
    x[:, [3, 7]] = 0
    return {"x": x}


#: What cannot be used: batches, and what is said of them.
UNFIT: dict[str, tuple[Sequence[Batch], str]] = {
    "names": ([{"z": rows()}], r"0.npz: the feeds do not fit the model: 'x' is missing; 'z' is no input \(known: x\)"),
    "dtype": ([{"x": rows().astype(np.float64)}], r"'x' is float64, not float32 \(convert it with .astype"),
    "no file": ([], r"holds no .npz file: save each batch with numpy.savez\(file, \*\*feeds\)"),
    "no array": ([{}], r"0.npz: the feeds do not fit the model: 'x' is missing"),
    "no row": ([{"x": rows(0)}], r"0.npz: input 'x' is empty, its shape is \[0, 32\]"),
    "nan": ([{"x": rows()}, {"x": np.full((2, 32), np.nan, np.float32)}], r"1.npz: input 'x' holds nan at \[0, 0\]"),
    "infinite": ([{"x": np.full((2, 32), np.inf, np.float32)}], r"0.npz: input 'x' holds inf at \[0, 0\]"),
    "overflow": (
        [{"x": np.float32(3e38) * np.sign(rows(4))}] * 3,
        r"calibration: r: calibration met inf in an activation, at .*; leave out the sample that gives it, or the site",
    ),
}

#: What is poor but can be used: batches, and what is remarked.
POOR: dict[str, tuple[Sequence[Batch], str]] = {
    "dead channels": ([dead() for _ in range(4)], "2 of 32 channels of input 'x' are zero throughout"),
    "zeros": ([{"x": np.zeros((16, 32), np.float32)}] * 3, "input 'x' is 0 throughout"),
    "constant": ([{"x": np.full((16, 32), 1.5, np.float32)}] * 3, "input 'x' is 1.5 throughout"),
    "one sample": ([{"x": rows(1)}], "one sample only, which stands for no other"),
}

#: Passes that calibrate and change weights alone, so that what they find bears on other data.
WEIGHTS = (
    "quantize-weights{algorithm=gptq,bits=8}",
    "quantize-weights{algorithm=awq,bits=8,multiply=true}",
    "quantize-weights{bits=8,refine=true,rank=2}",
    "quantize-weights{algorithm=gptq,bits=8,group=20,clip=true}",
    "smooth-activations{multiply=true}",
)
CALIBRATED = (*WEIGHTS, "quantize-static")


def save(batches: Sequence[Batch]) -> None:
    Path("data").mkdir()
    for index, batch in enumerate(batches):
        np.savez(f"data/{index}.npz", **batch)  # type: ignore[arg-type]  # the stub takes names for options


def compiled(cli: Cli, passes: str, batches: Sequence[Batch] | None, *more: str) -> Ran:
    ir.save(MODEL, "model.onnx")
    data = ()
    if batches is not None:
        save(batches)
        data = ("--data", "data")
    words = ("compile", "model.onnx", "-o", "out", "--target", "onnxruntime", "--size-first", "--passes", passes)
    return cli(*words, *data, *more)


@pytest.mark.parametrize("case", UNFIT)
@pytest.mark.parametrize("passes", [WEIGHTS[0], "quantize-static"])
def test_data_that_cannot_be_used_are_an_error(cli: Cli, passes: str, case: str) -> None:
    batches, message = UNFIT[case]
    ran = compiled(cli, passes, batches)
    assert ran.code == 3
    assert re.search(message, ran.err), ran.err
    assert "Traceback" not in ran.err
    assert not Path("out").exists()


@pytest.mark.parametrize("passes", CALIBRATED)
def test_without_data_nothing_is_calibrated(cli: Cli, passes: str) -> None:
    ran = compiled(cli, passes, None)
    assert ran.code == 2
    assert "calibration data are needed: give --data" in ran.err
    assert "Random data would calibrate to nothing that the model will see" in ran.err
    assert not Path("out").exists()


@pytest.mark.parametrize("case", POOR)
@pytest.mark.parametrize("passes", WEIGHTS)
def test_on_poor_data_weights_hold_on_other_data_too(cli: Cli, passes: str, case: str) -> None:
    batches, remark = POOR[case]
    ran = compiled(cli, passes, batches)
    assert ran.code == 0, ran.err
    assert remark in ran.out
    found = compare(runner(MODEL), tersor.open("out").run, [{"x": rows()} for _ in range(3)])
    (made,) = Pipeline.of(passes).flat()
    assert worst_loss(made.contract, found) <= allowed(made.contract)


@pytest.mark.parametrize(("case", "left"), [("zeros", 2), ("constant", 1), ("dead channels", 0), ("one sample", 0)])
def test_activations_that_never_vary_have_no_grid(cli: Cli, case: str, left: int) -> None:
    batches, remark = POOR[case]
    ran = compiled(cli, "quantize-static", batches)
    assert ran.code == 0, ran.err
    assert remark in ran.out
    found = tersor.open("out").run({"x": rows()})["y"]
    assert np.isfinite(found).all()
    assert ("quantize-static changed nothing: 2 x data: x is 0 throughout the data" in ran.out) is (left == 2)
    stored = tersor.load("out/model.onnx").graph.initializers.values()
    assert sum(value.dtype == ir.DataType.FLOAT and value.const_value.size > 1000 for value in stored) == left


def test_what_is_quantized_already_is_left_and_strict_says_so(cli: Cli) -> None:
    model = MODEL.clone()
    tersor.run_passes(model, "quantize-weights{bits=8}", verify="off")
    ir.save(model, "stored.onnx")
    words = ("compile", "stored.onnx", "-o", "out", "--target", "onnxruntime", "--size-first", "--passes")
    ran = cli(*words, "quantize-weights", "--strict")
    assert ran.code == 7
    assert "2 x quantized: up_quantized, ..; needed weights that are not quantized yet" in ran.err


def test_run_passes_calibrates_on_all_of_its_data() -> None:
    data = [{"x": rows()} for _ in range(9)] + [{"x": 100 * rows()}]
    model = MODEL.clone()
    report = tersor.run_passes(model, "quantize-static{range=min-max, type=uint8}", data=data, verify="off")
    assert report.passes[-1].matches == 2
    scale = next(value for node in model.graph if node.op_type == "QuantizeLinear" for value in node.inputs[1:2])
    assert scale is not None and scale.const_value is not None
    x = np.concatenate([batch["x"] for batch in data])
    np.testing.assert_allclose(scale.const_value.numpy(), (x.max() - x.min()) / 255, rtol=1e-6)


def test_remarks_are_about_floats_alone() -> None:
    mask = {"ids": np.array([[1, 2], [3, 4]]), "mask": np.ones((2, 2), np.int64), "past": np.zeros((1, 0), np.float32)}
    assert list(remarks([mask, mask])) == []
    assert list(remarks([{"x": rows()}, {"x": rows()}])) == []


def test_a_compile_that_was_stopped_goes_on_and_then_clears_away(cli: Cli) -> None:
    ir.save(MODEL, "model.onnx")
    save([{"x": rows()} for _ in range(6)])
    options = {"target": "onnxruntime", "passes": WEIGHTS[0], "data": "data", "resume": "kept", "size_first": True}

    def stop(done: int, total: int) -> None:
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tersor.compile("model.onnx", output="out", progress=stop, **options)
    assert not Path("out").exists()
    (Path("kept") / "other.npz").write_bytes(b"")
    assert len(list(Path("kept").glob("*.npz"))) == 2
    told: list[tuple[int, int]] = []
    again = tersor.compile("model.onnx", progress=lambda *far: told.append(far), **options)
    assert told[0] == (5, 5), "the first run was there"
    assert [file.name for file in Path("kept").iterdir()] == ["other.npz"]
    ran = compiled(cli, WEIGHTS[0], None, "--data", "data", "--resume", "kept")
    assert ran.code == 0, ran.err
    assert [file.name for file in Path("kept").iterdir()] == ["other.npz"]
    assert (again.path / "model.onnx").read_bytes() == Path("out/model.onnx").read_bytes()
