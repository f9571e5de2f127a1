"""`kill -9` in the middle of a compile: there is no artifact afterwards, or a complete one that opens."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx_ir
import pytest
import tersor
from tersor.ir.text import graph

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")]

#: Compiles argv[1] into argv[2] and prints each stage as it starts.
PROGRAM = """
import sys
import onnxruntime, tersor
from tersor.ir.runner import runner
tersor.compile
print("ready", flush=True)
tersor.compile(sys.argv[1], target="onnxruntime", output=sys.argv[2], observe=lambda stage: print(stage, flush=True))
print("done", flush=True)
"""
KILLS = 20
WRITING = "write onnxruntime"

X = np.random.default_rng(1).standard_normal((3, 2048)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.onnx: 38 MB of weights, enough for external data and for writing to take its time."""
    made = tmp_path_factory.mktemp("kill")
    rng = np.random.default_rng(0)
    up, down = (rng.standard_normal(shape).astype(np.float32) / 45.0 for shape in ((2048, 2304), (2304, 2048)))
    model = graph(
        "h = MatMul(x, up)", "r = Relu(h)", "y = MatMul(r, down)", inputs={"x": "float[batch, 2048]"}, up=up, down=down
    )
    onnx_ir.save(model, made / "model.onnx")
    return made


@contextmanager
def compiling(folder: Path, output: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that compiles, its imports done; killed at the end of the block."""
    command = [sys.executable, "-c", PROGRAM, str(folder / "model.onnx"), str(output)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            wait_for("ready", process)
            yield process
        finally:
            process.kill()


def wait_for(stage: str, process: subprocess.Popen[str]) -> None:
    """Read on until the process starts a stage."""
    assert process.stdout is not None
    assert any(line.rstrip("\n") == stage for line in process.stdout), f"it ended without {stage!r}"


def durations(folder: Path, output: Path) -> tuple[float, float]:
    """Seconds of an undisturbed compile, and of its part from writing the model to the end."""
    with compiling(folder, output) as process:
        start = time.perf_counter()
        wait_for(WRITING, process)
        writing = time.perf_counter()
        wait_for("done", process)
        end = time.perf_counter()
    return end - start, end - writing


def answer(artifact: Path) -> np.ndarray:
    """What the artifact answers to X; every file is held against its hash first."""
    return tersor.open(artifact, verify=True).run({"x": X})["y"]


def test_a_killed_compile_leaves_no_artifact_or_a_complete_one(folder: Path) -> None:
    earlier, fresh = folder / "earlier", folder / "fresh"
    whole, tail = durations(folder, earlier)
    expected = answer(earlier)
    moments = random.Random(0)
    outcomes = []
    for index in range(KILLS):
        # in turns over an earlier artifact and over nothing; half of them over the whole time, half while it writes
        output, late = (earlier, fresh)[index % 2], index % 4 >= 2
        with compiling(folder, output) as process:
            if late:
                wait_for(WRITING, process)
            time.sleep(moments.uniform(0.0, tail if late else whole))
        outcomes.append(output.exists())
        if output.exists():
            np.testing.assert_array_equal(answer(output), expected)
        shutil.rmtree(fresh, ignore_errors=True)
    assert all(outcomes[0::2]), "the earlier artifact is never gone"
    assert not all(outcomes[1::2]), "some were killed before the end"
    durations(folder, fresh)
    durations(folder, earlier)
    assert sorted(path.name for path in folder.iterdir()) == ["earlier", "fresh", "model.onnx"]
