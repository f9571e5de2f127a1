"""Writing: whole files or none, weights outside when large, and models that live in the file they replace."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from tersor.ir import save as saving
from tersor.ir.errors import OptionError
from tersor.ir.load import load
from tersor.ir.save import atomic_folder, save, sha256
from tersor.ir.text import graph, lines


def _weight(model: onnx_ir.Model) -> np.ndarray:
    tensor = model.graph.initializers["w"].const_value
    assert tensor is not None
    return tensor.numpy()


def _model(rows: int = 64, fill: float = 1.0) -> onnx_ir.Model:
    weight = np.full((rows, 64), fill, np.float32)
    return graph("y = MatMul(x, w)", inputs={"x": f"float[batch, {rows}]"}, w=weight)


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "INLINE_LIMIT", 1024)


def test_a_small_model_is_one_file(tmp_path: Path) -> None:
    save(_model(), tmp_path / "m.onnx")
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.onnx"]
    onnx.checker.check_model(str(tmp_path / "m.onnx"))
    again = load(tmp_path / "m.onnx")
    assert lines(again) == ["y = MatMul(x, w)"]
    assert np.array_equal(_weight(again), _weight(_model()))


def test_a_large_model_has_its_weights_beside_it(tmp_path: Path, small_limit: None) -> None:
    save(_model(), tmp_path / "m.onnx")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert (tmp_path / "m.onnx").stat().st_size < 1024
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)
    assert np.array_equal(_weight(load(tmp_path / "m.onnx")), _weight(_model()))


def test_the_limit_is_on_the_weights_together(tmp_path: Path) -> None:
    model = graph("s = MatMul(x, w)", "y = MatMul(s, v)", w=np.ones((1, 2), np.float32), v=np.ones((2, 1), np.float32))
    save(model, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx.data").exists()
    assert saving.INLINE_LIMIT == 32 * 1024 * 1024


def test_the_model_is_unchanged_by_saving(tmp_path: Path, small_limit: None) -> None:
    model = _model()
    before = model.graph.initializers["w"].const_value
    save(model, tmp_path / "m.onnx")
    assert model.graph.initializers["w"].const_value is before


@pytest.mark.parametrize("limit", [1024, 1 << 30])
def test_a_model_can_replace_the_file_its_weights_are_mapped_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(saving, "INLINE_LIMIT", limit)
    path = tmp_path / "m.onnx"
    save(_model(fill=3.0), path)
    model = load(path)
    save(model, path)
    save(model, path)
    assert np.array_equal(_weight(model), _weight(_model(fill=3.0)))
    assert np.array_equal(_weight(load(path)), _weight(_model(fill=3.0)))


@pytest.mark.parametrize("limit", [1024, 1 << 30])
def test_external_tensors_that_onnx_ir_made_survive_being_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    path = tmp_path / "m.onnx"
    onnx_ir.save(_model(fill=5.0), path, external_data="m.onnx.data")
    model = onnx_ir.load(path)
    monkeypatch.setattr(saving, "INLINE_LIMIT", limit)
    save(model, path)
    assert np.array_equal(_weight(model), _weight(_model(fill=5.0)))
    assert np.array_equal(_weight(load(path)), _weight(_model(fill=5.0)))
    assert (tmp_path / "m.onnx.data").exists() == (limit == 1024)


def test_writing_is_deterministic(tmp_path: Path) -> None:
    save(_model(), tmp_path / "a.onnx")
    save(_model(), tmp_path / "b.onnx")
    assert sha256(tmp_path / "a.onnx") == sha256(tmp_path / "b.onnx")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    save(_model(), path)
    before = sha256(path)

    def broken(model: onnx_ir.Model) -> onnx.ModelProto:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx_ir, "to_proto", broken)
    with pytest.raises(OptionError, match="No space left on device"):
        save(_model(fill=2.0), path)
    assert sha256(path) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.onnx"]


def test_refuses_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"cannot write .*m\.onnx: No such file"):
        save(_model(), tmp_path / "missing" / "m.onnx")


def test_sha256_is_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def _fill(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text("{}")
    (folder / "part").mkdir()
    (folder / "part" / "a").write_text(text)


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with atomic_folder(target) as folder:
        _fill(folder, "one")
        assert not target.exists()
    assert (target / "part" / "a").read_text() == "one"
    assert [entry.name for entry in target.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("exchange", [True, False])
def test_an_earlier_artifact_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool) -> None:
    if not exchange:
        monkeypatch.setattr(saving, "_exchange", lambda source, goal: False)
    target = tmp_path / "out"
    for text in ("one", "two"):
        with atomic_folder(target) as folder:
            _fill(folder, text)
    assert (target / "part" / "a").read_text() == "two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with atomic_folder(tmp_path / "out") as folder:
        _fill(folder, "one")
    assert (tmp_path / "out" / "manifest.json").exists()


def test_what_raises_inside_leaves_nothing_and_is_not_disguised(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with atomic_folder(target) as folder:
        _fill(folder, "one")
    with pytest.raises(FileNotFoundError), atomic_folder(target) as folder:
        _fill(folder, "two")
        (folder / "missing").read_text()
    assert (target / "part" / "a").read_text() == "one"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_refuses_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with (
        pytest.raises(OptionError, match=r"is not empty and no tersor artifact .*thesis\.txt"),
        atomic_folder(tmp_path),
    ):
        pytest.fail("must refuse before the work is done")
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OptionError, match="is a file, expected a folder"), atomic_folder(tmp_path / "out"):
        pytest.fail("must refuse before the work is done")


def test_refuses_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OptionError, match="cannot write"), atomic_folder(tmp_path / "file" / "out"):
        pytest.fail("must refuse before the work is done")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_refuses_an_unwritable_parent(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OptionError, match="Permission denied"), atomic_folder(tmp_path / "out"):
            pytest.fail("must refuse before the work is done")
    finally:
        tmp_path.chmod(0o700)


def _dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_leftovers_of_dead_processes_are_removed_and_others_are_not(tmp_path: Path) -> None:
    dead = tmp_path / f".out.tersor-{_dead_pid()}-abc"
    living = tmp_path / f".out.tersor-{os.getpid()}-abc"
    other = tmp_path / f".other.tersor-{_dead_pid()}-abc"
    for folder in (dead, living, other):
        folder.mkdir()
    with atomic_folder(tmp_path / "out") as folder:
        _fill(folder, "one")
    assert not dead.exists()
    assert living.exists()
    assert other.exists()


def test_an_artifact_set_aside_by_a_dead_process_comes_back(tmp_path: Path) -> None:
    aside = tmp_path / f".out.tersor-{_dead_pid()}-abc" / "old"
    aside.mkdir(parents=True)
    _fill(aside, "one")
    with contextlib.suppress(KeyError), atomic_folder(tmp_path / "out"):
        raise KeyError
    assert (tmp_path / "out" / "part" / "a").read_text() == "one"


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_writer_leaves_the_old_artifact_or_the_new_one(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with atomic_folder(target) as folder:
        _fill(folder, "start")
    code = textwrap.dedent(f"""
        import itertools
        from tersor.ir.save import atomic_folder
        for count in itertools.count():
            with atomic_folder({str(target)!r}) as folder:
                (folder / "manifest.json").write_text("{{}}")
                (folder / "part").mkdir()
                (folder / "part" / "a").write_text(str(count) * 1000)
                (folder / "b").write_text(str(count) * 1000)
            print(count, flush=True)
    """)
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    for delay in (0.003, 0.011, 0.017):
        time.sleep(delay)
        assert (target / "manifest.json").exists()
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert (target / "part" / "a").read_text() == (target / "b").read_text()
    with atomic_folder(target) as folder:
        _fill(folder, "last")
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
