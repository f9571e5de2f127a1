from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tersor.backends.base import Interface, Session
from tersor.backends.catalogue import create
from tersor.backends.inductor import aoti
from tersor.backends.inductor.backend import Inductor
from tersor.ir.errors import ModelError, OptionError, UnsupportedError
from tersor.ir.feeds import random_feeds
from tersor.ir.text import graph
from tersor.tests.backends.inductor.models import assert_close, linear, needs_compiler, normal, reference


@pytest.fixture(scope="module")
def model() -> ir.Model:
    return linear()


@pytest.fixture(scope="module")
def folder(model: ir.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one package that the fast tests compile."""
    made = tmp_path_factory.mktemp("inductor")
    Inductor(threads=1).write(model, made)
    return made


@pytest.fixture
def session(model: ir.Model, folder: Path) -> Session:
    return Inductor(threads=1).open(folder, Interface.of(model))


@needs_compiler
@pytest.mark.parametrize("batch", [1, 2, 3, 64])
def test_every_size_runs_without_compiling_again(session: Session, model: ir.Model, batch: int) -> None:
    feeds = random_feeds(model, {"batch": batch})
    assert_close(session.run(feeds), reference(model, feeds))


@needs_compiler
def test_the_strides_of_feeds_do_not_matter(session: Session, model: ir.Model) -> None:
    feeds = random_feeds(model, {"batch": 5})
    turned = {"x": np.asfortranarray(feeds["x"]), "i": np.repeat(feeds["i"], 2)[::2]}
    assert_close(session.run(turned), reference(model, feeds))


@needs_compiler
def test_results_belong_to_the_caller(session: Session, model: ir.Model) -> None:
    feeds = random_feeds(model, {"batch": 2})
    wanted = reference(model, feeds)
    for array in session.run(feeds).values():
        array += 1
    assert_close(session.run(feeds), wanted)


@needs_compiler
def test_an_index_beyond_its_table_is_an_error(session: Session) -> None:
    with pytest.raises(ModelError, match="does not run on these feeds"):
        session.run({"x": normal(2, 64), "i": np.array([0, 99])})


@needs_compiler
def test_a_fresh_process_runs_it_without_a_compiler(folder: Path, model: ir.Model, tmp_path: Path) -> None:
    feeds = random_feeds(model, {"batch": 4})
    np.savez(tmp_path / "feeds.npz", **feeds)
    program = f"""
import shutil, sys, numpy, torch
assert shutil.which("g++") is None and shutil.which("ld") is None
feeds = numpy.load("feeds.npz")
run = torch._C._aoti.AOTIModelPackageLoader({str(folder / "model.pt2")!r}, "model", False, 1, -1).boxed_run
y, same, turned = run([torch.from_numpy(feeds["x"]), torch.from_numpy(feeds["i"])])
numpy.savez("found.npz", y=y.numpy(), same=same.numpy(), turned=turned.numpy())
assert not any(name.partition(".")[0] == "tersor" for name in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={"PATH": ""}, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "found.npz") as found:
        assert_close(dict(found), reference(model, feeds))


@needs_compiler
def test_the_folder_says_what_it_was_compiled_for(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["model.pt2", "runtime.json"]
    runtime = json.loads((folder / "runtime.json").read_text(encoding="utf-8"))
    assert (runtime["device"], runtime["inputs"]) == ("cpu", ["x", "i"])
    assert runtime["needs"] == Inductor().needs(folder)
    assert runtime["needs"]["torch"]


@needs_compiler
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"machine": "riscv64"}, "it is code for riscv64 on"),
        ({"torch": "1.13.0"}, "it was compiled by torch 1.13.0"),
        ({"vectors": "avx1024", "features": ["avx1024f"]}, "it is code for avx1024, and this CPU has no avx1024f"),
        ({"capability": "9.0", "gpu": "H200"}, r"compute capability 9.0 \(H200\), here is none"),
    ],
)
def test_another_machine_is_refused(
    folder: Path, model: ir.Model, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    runtime = json.loads((copy / "runtime.json").read_text(encoding="utf-8"))
    runtime["needs"] |= change
    (copy / "runtime.json").write_text(json.dumps(runtime), encoding="utf-8")
    with pytest.raises(UnsupportedError, match=message) as caught:
        Inductor().open(copy, Interface.of(model))
    assert "recompile with `tersor compile ... --target inductor` here" in str(caught.value)


@needs_compiler
def test_a_package_is_for_one_device(folder: Path, model: ir.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Inductor, "_check_device", lambda self: None)
    with pytest.raises(UnsupportedError, match="compiled for device=cpu, opened with device=cuda"):
        Inductor(device="cuda").open(folder, Interface.of(model))


@needs_compiler
def test_a_damaged_package_is_an_error(folder: Path, model: ir.Model, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "model.pt2").write_bytes((folder / "model.pt2").read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"model.pt2 cannot be loaded"):
        Inductor().open(copy, Interface.of(model))
    runtime = json.loads((copy / "runtime.json").read_text(encoding="utf-8"))
    for conditions, message in (
        (None, "does not say which sizes the package takes: compile the model again"),
        (["shapes[0][0] >"], "'shapes.*' is no condition on sizes: compile the model again"),
        (["exit()"], r"'exit\(\)' is more than arithmetic on shapes: compile the model again"),
        (["shapes[7][0] > 1"], "is not on sizes of the inputs: compile the model again"),
    ):
        (copy / "runtime.json").write_text(json.dumps(runtime | {"conditions": conditions}), encoding="utf-8")
        with pytest.raises(ModelError, match=message):
            Inductor().open(copy, Interface.of(model))
    for text in ("{", "[]"):
        (copy / "runtime.json").write_text(text, encoding="utf-8")
        with pytest.raises(ModelError, match=r"runtime.json .*: compile the model again"):
            Inductor().open(copy, Interface.of(model))
    (copy / "runtime.json").write_text('{"device": "cpu"}', encoding="utf-8")
    with pytest.raises(ModelError, match="does not say what it was compiled for"):
        Inductor().open(copy, Interface.of(model))
    (copy / "runtime.json").unlink()
    with pytest.raises(ModelError, match=r"expected model.pt2 and runtime.json"):
        Inductor().open(copy, Interface.of(model))


@needs_compiler
@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 1.0])
def test_a_package_with_other_bytes_in_it_is_an_error(
    folder: Path, model: ir.Model, tmp_path: Path, place: float
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    whole = bytearray((folder / "model.pt2").read_bytes())
    start = int(place * (len(whole) - 64))
    whole[start : start + 64] = bytes(byte ^ 0xFF for byte in whole[start : start + 64])
    (copy / "model.pt2").write_bytes(whole)
    with pytest.raises(ModelError, match=r"model.pt2 cannot be loaded: .*recompile with"):
        Inductor().open(copy, Interface.of(model))


def test_without_a_compiler_it_says_what_to_install(
    model: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UnsupportedError, match=r"no C.. compiler to compile with.*apt-get install g.."):
        Inductor().write(model, tmp_path)
    assert Inductor.obstacle() is not None
    assert list(tmp_path.iterdir()) == []


def test_what_torch_cannot_export_is_refused_with_the_reason(tmp_path: Path) -> None:
    model = graph(
        "n = Shape{start=0, end=1}(x)", "r = Reshape(z, n)", "y = Add(x, r)", inputs={"x": "float[a]", "z": "float[b]"}
    )
    with pytest.raises(UnsupportedError, match=r"inductor compiles what torch.export can express.*use the target"):
        Inductor().write(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


@needs_compiler
def test_a_failure_of_inductor_is_told_in_one_line(
    model: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object) -> None:
        raise RuntimeError("the compiler crashed:\n  target: aten.foo\n" + "at length\n" * 100)

    monkeypatch.setattr(aoti, "package", fail)
    with pytest.raises(UnsupportedError, match=r"the compiler crashed at aten.foo$") as caught:
        Inductor().write(model, tmp_path)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_everything_missing_is_listed_at_once(tmp_path: Path) -> None:
    model = graph("a = com.microsoft.Foo(x)", "b = Relu(a)", "y = Bar(b)", inputs={"x": "float[n]"})
    with pytest.raises(UnsupportedError, match="inductor: 2 ops have no lowering"):
        Inductor().write(model, tmp_path)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("inductor{cuda_graphs=true}", "cuda_graphs is for device=cuda"),
        ("inductor{sizes=[batch]}", r"a list like \[batch=32, sequence=64\]; found 'batch'"),
        ("inductor{sizes=[a=4, b=4]}", "sizes that differ; found 4 twice"),
        ("inductor{sizes=[batch=1]}", "sizes of 2 or more; found 'batch=1'"),
        ("inductor{threads=-1}", "option threads is a count"),
        ("inductor{device=gpu}", "option device is one of cpu, cuda; found 'gpu'"),
        ("inductor{max_autotun=true}", r"no option 'max_autotun'; did you mean max_autotune\?"),
        ("inductor{isa=sse}", "one of auto, avx2, avx512"),
    ],
)
def test_options_are_checked_before_work_starts(target: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        create(target)


def test_sizes_are_of_dimensions_that_the_model_has(model: ir.Model, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no dimension 'sequence'; it has batch"):
        Inductor(sizes=("sequence=8",)).write(model, tmp_path)


@needs_compiler
def test_vector_instructions_that_are_not_there_are_refused(
    model: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aoti, "vector_extension", lambda settings: ("none", ""))
    with pytest.raises(UnsupportedError, match="Inductor finds no avx512 on this machine"):
        Inductor(isa="avx512").write(model, tmp_path)


def test_a_missing_device_is_refused(model: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UnsupportedError, match="inductor: device=cuda, but torch finds no CUDA device here"):
        Inductor(device="cuda").write(model, tmp_path)
