"""Files, folders, functions and objects as models; what is none is refused with a sentence that helps."""

from __future__ import annotations

import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from tersor.ir.errors import ModelError, OptionError
from tersor.ir.load import load
from tersor.ir.text import graph, lines

FLOAT = TensorProto.FLOAT


def _proto(op: str = "Relu") -> onnx.ModelProto:
    port = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "y")]
    body = helper.make_graph([helper.make_node(op, ["x"], ["y"])], "g", port[:1], port[1:])
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _file(tmp_path: Path, proto: onnx.ModelProto, name: str = "m.onnx") -> Path:
    path = tmp_path / name
    path.write_bytes(proto.SerializeToString())
    return path


def test_reads_text_paths_and_protos_alike(tmp_path: Path) -> None:
    proto = _proto()
    path = _file(tmp_path, proto)
    assert lines(load(str(path))) == lines(load(path)) == lines(load(proto)) == ["y = Relu(x)"]


def test_returns_a_model_as_it_is() -> None:
    model = graph("y = Relu(x)")
    assert load(model) is model


class _Bomb:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, ("exploded",)


def _zip(names: tuple[str, ...]) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, pickle.dumps(_Bomb()))

    return write


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("m.onnx", lambda path: path.write_bytes(b""), "is empty, expected an ONNX model"),
        ("m.onnx", lambda path: path.write_bytes(b"\xff" * 100), "no complete ONNX model: its 100 bytes are truncated"),
        ("m.onnx", lambda path: path.write_bytes(b"not a model at all"), "truncated, damaged or of another format"),
        ("m.onnx", lambda path: path.write_bytes(b"\x08\x0a"), "holds no graph"),
        ("m.onnx", _zip(("a/data.pkl",)), "a zip archive"),
        ("m.onnx", lambda path: path.write_bytes(pickle.dumps(_Bomb())), "pickles are never loaded"),
        ("m.pt", lambda path: path.write_bytes(pickle.dumps(_Bomb())), "pickles are never loaded"),
        ("m.bin", _zip(("a/data.pkl",)), "pickles are never loaded"),
        ("m.onnx", lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"), "run git lfs pull"),
        ("m.onnx", lambda path: path.write_bytes(b"\x10\0\0\0\0\0\0\0" + b'{"__metadata__"'), "safetensors file"),
        ("m.tflite", lambda path: path.write_bytes(b"\x1c\0\0\0TFL3"), "TensorFlow Lite"),
        ("m.pt2", lambda path: path.write_bytes(b"PK\x03\x04"), r"no complete \.pt2 archive"),
        ("m.pt2", _zip(("a/data.pkl",)), "a file of torch.save, a pickle"),
        ("m.pt2", _zip(("a/data/aotinductor/x.so",)), "holds compiled code"),
        ("m.pt2", _zip(("a/b",)), "holds no program, expected one"),
    ],
)
def test_refuses_what_is_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, write: Callable[[Path], object], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name)
    with pytest.raises(ModelError, match=message) as caught:
        load(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("exploded").exists()


def test_refuses_a_missing_file_and_names_near_ones(tmp_path: Path) -> None:
    _file(tmp_path, _proto(), "encoder.onnx")
    with pytest.raises(ModelError, match=r"no file .*encodr\.onnx: did you mean encoder\.onnx"):
        load(tmp_path / "encodr.onnx")
    with pytest.raises(ModelError, match=r"models in .*: encoder\.onnx"):
        load(tmp_path / "zzz")
    with pytest.raises(ModelError, match=r"its folder .* does not exist either"):
        load(tmp_path / "no" / "m.onnx")


def test_refuses_example_inputs_for_a_finished_graph(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="args and dynamic are for tracing a torch module"):
        load(_file(tmp_path, _proto()), args=(1,), dynamic={"x": {0: "batch"}})


def test_refuses_what_is_no_source() -> None:
    with pytest.raises(ModelError, match="a int is no model: expected a path"):
        load(7)  # type: ignore[arg-type]


def test_a_folder_with_one_model_is_that_model(tmp_path: Path) -> None:
    _file(tmp_path, _proto(), "any.onnx")
    (tmp_path / "config.json").write_text("{}")
    assert lines(load(tmp_path)) == ["y = Relu(x)"]


def test_an_artifact_is_the_model_in_it(tmp_path: Path) -> None:
    _file(tmp_path, _proto(), "model.onnx")
    _file(tmp_path, _proto("Abs"), "other.onnx")
    with pytest.raises(ModelError, match=r"holds 2 models \(model\.onnx, other\.onnx\): name one of them"):
        load(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    assert lines(load(tmp_path)) == ["y = Relu(x)"]


def test_refuses_a_folder_without_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no model: expected .* found nothing"):
        load(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ModelError, match=r"found notes\.txt"):
        load(tmp_path)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory; modules imported from it are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


def test_a_function_may_return_a_model(here: Path) -> None:
    (here / "tersor_made_here.py").write_text(
        "from tersor.ir.text import graph\ndef relu():\n    return graph('y = Relu(x)')\n"
    )
    before = list(sys.path)
    assert lines(load("tersor_made_here:relu")) == ["y = Relu(x)"]
    assert sys.path == before


@pytest.mark.parametrize(
    ("source", "text", "message"),
    [
        ("tersor_absent:make", None, "no file of that name and no module 'tersor_absent'"),
        ("tersor_made.absent:make", "", "no module 'tersor_made.absent'"),
        ("tersor_made:make", "import tersor_absent", "needs the module 'tersor_absent', which is not installed"),
        ("tersor_made:make", "def :", "importing tersor_made failed with SyntaxError"),
        ("tersor_made:mkae", "def make(): pass", "module tersor_made has no 'mkae': did you mean make"),
        ("tersor_made:make", "make = 3", "make is a int, expected a function"),
        ("tersor_made:make", "def make(x): pass", "tersor_made:make failed with TypeError"),
        ("tersor_made:make", "def make(): raise ValueError('no luck')", "failed with ValueError: no luck"),
        ("tersor_made:make", "def make(): return None", "a NoneType is no model"),
        ("tersor_made:make", "def make(): return 1, 2, 3, 4", r"returned \(int, int, int, int\): expected a model"),
        ("tersor_made:make", "def make(): return 1, 2, 3", r"returned \(int, int, int\)"),
        ("tersor_made:make", "def make(): return 'm.onnx'", "a str is no model"),
    ],
)
def test_refuses_functions_that_make_no_model(here: Path, source: str, text: str | None, message: str) -> None:
    if text is not None:
        (here / "tersor_made.py").write_text(text)
    with pytest.raises(ModelError, match=message):
        load(source)


def test_errors_of_ours_pass_through_a_function(here: Path) -> None:
    (here / "tersor_made.py").write_text(
        "from tersor.ir.errors import OptionError\ndef make():\n    raise OptionError('choose')\n"
    )
    with pytest.raises(OptionError, match=r"^choose$"):
        load("tersor_made:make")


def test_a_file_of_that_name_goes_first(here: Path) -> None:
    if os.name == "nt":
        pytest.skip("a name with a colon is no file name here")
    _file(here, _proto(), "a:b")
    assert lines(load("a:b")) == ["y = Relu(x)"]
