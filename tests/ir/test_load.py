"""Files, folders and functions as models; every kind of damage is refused with a sentence that helps."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from tersor.ir import onnxfile
from tersor.ir.errors import ModelError, OptionError, TersorError
from tersor.ir.level import Level, violations
from tersor.ir.load import load
from tersor.ir.text import graph, lines

FLOAT = TensorProto.FLOAT


def _proto(
    *nodes: onnx.NodeProto,
    inputs: tuple[str, ...] = ("x",),
    outputs: tuple[str, ...] = ("y",),
    weights: dict[str, np.ndarray] | None = None,
    opsets: dict[str, int] | None = None,
    ir_version: int = 10,
    functions: tuple[onnx.FunctionProto, ...] = (),
) -> onnx.ModelProto:
    body = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(name, FLOAT, ["n"]) for name in inputs],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in (opsets or {"": 18}).items()]
    return helper.make_model(body, opset_imports=imports, ir_version=ir_version, functions=list(functions))


def _file(tmp_path: Path, proto: onnx.ModelProto, name: str = "m.onnx") -> Path:
    path = tmp_path / name
    path.write_bytes(proto.SerializeToString())
    return path


def _array(model: onnx_ir.Model, name: str) -> np.ndarray:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def _names(values: object) -> list[str]:
    return [value.name for value in values]  # type: ignore[attr-defined]


relu = helper.make_node("Relu", ["x"], ["y"], "relu")


# ---- works


@pytest.mark.parametrize("opset", [7, 9, 13, 17, 23, onnx.defs.onnx_opset_version()])
@pytest.mark.parametrize("ir_version", [3, 8, 13])
def test_reads_old_and_new_opsets_and_ir_versions(tmp_path: Path, opset: int, ir_version: int) -> None:
    model = load(_file(tmp_path, _proto(relu, opsets={"": opset}, ir_version=ir_version)))
    assert lines(model) == ["y = Relu(x)"]
    assert model.opset_imports == {"": opset}
    assert violations(model, Level.IMPORTED) == []


def test_reads_text_paths_and_protos_alike(tmp_path: Path) -> None:
    proto = _proto(relu)
    path = _file(tmp_path, proto)
    assert lines(load(str(path))) == lines(load(path)) == lines(load(proto)) == ["y = Relu(x)"]


def test_returns_a_model_as_it_is() -> None:
    model = graph("y = Relu(x)")
    assert load(model) is model


def test_sorts_nodes_also_of_subgraphs(tmp_path: Path) -> None:
    branch = helper.make_graph(
        [helper.make_node("Relu", ["s"], ["t"]), helper.make_node("Neg", ["h"], ["s"])],
        "b",
        [],
        [helper.make_tensor_value_info("t", FLOAT, None)],
    )
    proto = _proto(
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
        helper.make_node("Cast", ["h"], ["c"], to=TensorProto.BOOL),
        helper.make_node("Abs", ["x"], ["h"]),
    )
    model = load(_file(tmp_path, proto))
    assert [node.op_type for node in model.graph] == ["Abs", "Cast", "If"]
    assert [node.op_type for node in list(model.graph)[2].attributes["then_branch"].as_graph()] == ["Neg", "Relu"]
    assert violations(model, Level.IMPORTED) == []  # also: both branches named their values alike


def test_names_nodes_uniquely(tmp_path: Path) -> None:
    proto = _proto(
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"], "same"),
        helper.make_node("Relu", ["b"], ["c"], "same"),
        helper.make_node("Relu", ["c"], ["y"], "Relu_1"),
    )
    assert _names(load(_file(tmp_path, proto)).graph) == ["Relu_2", "same", "same_1", "Relu_1"]


def test_adds_missing_imports_of_contrib_domains(tmp_path: Path) -> None:
    gelu = helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")
    model = load(_file(tmp_path, _proto(gelu)))
    assert model.opset_imports == {"": 18, "com.microsoft": 1}
    assert lines(model) == ["y = com.microsoft.Gelu(x)"]


def test_keeps_layer_normalization_that_onnx_runtime_wrote_into_an_old_opset(tmp_path: Path) -> None:
    node = helper.make_node("LayerNormalization", ["x", "w"], ["y"])
    assert len(load(_file(tmp_path, _proto(node, weights={"w": np.ones(3, np.float32)}, opsets={"": 12}))).graph) == 1


def test_reads_functions_and_imports_what_they_import(tmp_path: Path) -> None:
    body = [
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Gelu", ["a"], ["b"], domain="com.microsoft"),
    ]
    function = helper.make_function("local", "Twice", ["a"], ["c"], body, [helper.make_opsetid("", 18)])
    call = helper.make_node("Twice", ["x"], ["y"], domain="local")
    model = load(_file(tmp_path, _proto(call, functions=(function,))))
    assert [node.op_type for node in next(iter(model.functions.values()))] == ["Gelu", "Relu"]
    assert model.opset_imports == {"": 18, "local": 1, "com.microsoft": 1}


def test_before_ir_4_weights_are_no_inputs(tmp_path: Path) -> None:
    node = helper.make_node("Add", ["x", "w"], ["y"])
    weights = {"w": np.ones(3, np.float32)}
    old = load(_file(tmp_path, _proto(node, inputs=("x", "w"), weights=weights, ir_version=3)))
    new = load(_file(tmp_path, _proto(node, inputs=("x", "w"), weights=weights, ir_version=8)))
    assert _names(old.graph.inputs) == ["x"]
    assert old.ir_version == 4
    assert _names(new.graph.inputs) == ["x", "w"]


def test_drops_weights_that_nobody_reads(tmp_path: Path) -> None:
    model = load(_file(tmp_path, _proto(relu, weights={"w": np.ones(3, np.float32)})))
    assert not model.graph.initializers


@pytest.mark.parametrize(
    "dtype",
    [np.float32, np.float64, np.float16, np.int64, np.int32, np.int8, np.uint8, np.bool_, np.complex64],
)
def test_large_weights_are_mapped_exactly(tmp_path: Path, dtype: type[np.generic]) -> None:
    weight = np.arange(3 * 4096).reshape(3, 4096).astype(dtype)
    path = _file(tmp_path, _proto(helper.make_node("Identity", ["w"], ["y"]), weights={"w": weight}))
    found = _array(load(path), "w")
    assert found.dtype == weight.dtype
    assert np.array_equal(found, weight)
    assert not found.flags.owndata
    assert not found.flags.writeable


@pytest.mark.parametrize("name", ["INT4", "UINT4", "FLOAT8E4M3FN", "BFLOAT16"])
def test_large_weights_of_small_types_are_mapped_exactly(tmp_path: Path, name: str) -> None:
    dtype = onnx_ir.DataType[name]
    weight = (np.arange(20001) % 7).astype(dtype.numpy())
    proto = _proto(helper.make_node("Identity", ["w"], ["y"]), opsets={"": 23})
    proto.graph.initializer.append(onnx_ir.to_proto(onnx_ir.Tensor(weight, dtype=dtype, name="w")))
    model = load(_file(tmp_path, proto))
    assert not isinstance(model.graph.initializers["w"].const_value, onnx_ir.TensorProtoTensor)
    assert np.array_equal(_array(model, "w"), weight)


def test_weights_are_found_wherever_they_are(tmp_path: Path) -> None:
    big = np.arange(5000, dtype=np.float32)
    inner = helper.make_graph(
        [helper.make_node("Add", ["x", "v"], ["t"])],
        "b",
        [],
        [helper.make_tensor_value_info("t", FLOAT, None)],
        [numpy_helper.from_array(big + 1, "v")],
    )
    body = [
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(big + 2)),
        helper.make_node("Add", ["a", "k"], ["b"]),
    ]
    function = helper.make_function("local", "Shift", ["a"], ["b"], body, [helper.make_opsetid("", 18)])
    proto = _proto(
        helper.make_node("If", ["c"], ["i"], then_branch=inner, else_branch=inner),
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(big)),
        helper.make_node("Add", ["i", "k"], ["s"]),
        helper.make_node("Shift", ["s"], ["y"], domain="local"),
        weights={"c": np.array(True)},
        functions=(function,),
    )
    model = load(_file(tmp_path, proto))
    held = next(node for node in model.graph if node.op_type == "If").attributes["then_branch"].as_graph()
    constants = [
        next(node for node in scope if node.op_type == "Constant").attributes["value"].as_tensor().numpy()
        for scope in (model.graph, next(iter(model.functions.values())))
    ]
    (value,) = held.initializers.values()
    assert value.const_value is not None
    for found, wanted in zip((*constants, value.const_value.numpy()), (big, big + 2, big + 1), strict=True):
        assert np.array_equal(found, wanted)
        assert not found.flags.owndata


def test_what_a_file_says_twice_of_a_tensor_does_not_hide_its_weights(tmp_path: Path) -> None:
    proto = _proto(helper.make_node("Identity", ["w"], ["y"]), weights={"w": np.arange(5000, dtype=np.float32)})
    proto.graph.initializer[0].data_location = TensorProto.DEFAULT
    assert np.array_equal(_array(load(_file(tmp_path, proto)), "w"), np.arange(5000))


def test_a_file_may_be_removed_while_its_model_is_in_use(tmp_path: Path) -> None:
    path = _file(tmp_path, _proto(helper.make_node("Identity", ["w"], ["y"]), weights={"w": np.ones(5000, np.float32)}))
    model = load(path)
    path.unlink()
    assert _array(model, "w").sum() == 5000


def test_loading_costs_no_copy_of_the_weights(tmp_path: Path) -> None:
    """Over 200 MB of weights, the peak grows by less than a quarter of them."""
    proto = _proto(helper.make_node("Identity", ["w"], ["y"]), weights={"w": np.ones((50, 1024, 1024), np.float32)})
    path = _file(tmp_path, proto)
    code = """
import resource, sys
from tersor.ir.load import load
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
load(sys.argv[1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    pytest.importorskip("resource")
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit < 50 * 1024 * 1024


def test_reads_real_models(data_dir: Path) -> None:
    for path in sorted((data_dir / "models" / "silero_vad").glob("*.onnx")):
        model = load(path)
        assert violations(model, Level.IMPORTED) == []
        reference = onnx_ir.load(path)
        for name, value in model.graph.initializers.items():
            tensor = reference.graph.initializers[name].const_value
            assert tensor is not None
            assert value.const_value is not None
            assert np.array_equal(value.const_value.numpy(), tensor.numpy())


# ---- external data


def _external(tmp_path: Path, **entries: object) -> Path:
    """A model whose weight `w` of 6 floats lies outside as `entries` say; `m.data` holds 0..9."""
    (tmp_path / "m.data").write_bytes(np.arange(10, dtype=np.float32).tobytes())
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[2, 3], data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    proto = _proto(helper.make_node("Identity", ["w"], ["y"]))
    proto.graph.initializer.append(tensor)
    return _file(tmp_path, proto)


def test_maps_external_data(tmp_path: Path) -> None:
    model = load(_external(tmp_path, location="m.data", offset=8, length=24))
    assert np.array_equal(_array(model, "w"), [[2, 3, 4], [5, 6, 7]])
    (tmp_path / "m.data").unlink()
    assert _array(model, "w")[0, 0] == 2


def test_external_data_without_offset_and_length_starts_the_file(tmp_path: Path) -> None:
    assert np.array_equal(_array(load(_external(tmp_path, location="m.data")), "w"), [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "n.data"}, r"'w' has its external data at n\.data, which is missing in .*did you mean m\.data"),
        ({"location": "../m.data"}, r"at \.\./m\.data, outside of the model's folder"),
        ({"location": str(Path(__file__).resolve())}, "outside of the model's folder"),
        ({"location": ""}, "without a location"),
        ({"location": "m.data", "offset": 24, "length": 24}, r"bytes 24 to 48 of m\.data, which is 40 bytes long"),
        ({"location": "m.data", "offset": -4, "length": 24}, r"no valid ONNX graph: .*offset"),
        ({"location": "m.data", "length": 20}, r"float\[2, 3\] needs 24 bytes, the file declares 20"),
    ],
)
def test_refuses_external_data_that_is_not_there(tmp_path: Path, entries: dict[str, object], message: str) -> None:
    (tmp_path / "in").mkdir()
    path = _external(tmp_path / "in", **entries)
    (tmp_path / "m.data").write_bytes(bytes(24))
    with pytest.raises(ModelError, match=message):
        load(path)


@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")
def test_refuses_a_link_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = _external(tmp_path / "in", location="link")
    (tmp_path / "secret").write_bytes(bytes(24))
    (tmp_path / "in" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match="outside of the model's folder"):
        load(path)


# ---- refuses


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


def test_refuses_a_truncated_model_at_every_length(tmp_path: Path) -> None:
    data = _file(
        tmp_path,
        _proto(helper.make_node("Add", ["x", "w"], ["y"]), weights={"w": np.ones(1100, np.float32)}),
    ).read_bytes()
    assert onnxfile.MAPPED_FROM < 4400
    path = tmp_path / "cut.onnx"
    for length in (*range(1, 60), 100, 2000, len(data) // 2, *range(len(data) - 60, len(data))):
        path.write_bytes(data[:length])
        with pytest.raises(ModelError):
            load(path)


def test_refuses_a_missing_file_and_names_near_ones(tmp_path: Path) -> None:
    _file(tmp_path, _proto(relu), "encoder.onnx")
    with pytest.raises(ModelError, match=r"no file .*encodr\.onnx: did you mean encoder\.onnx"):
        load(tmp_path / "encodr.onnx")
    with pytest.raises(ModelError, match=r"models in .*: encoder\.onnx"):
        load(tmp_path / "zzz")
    with pytest.raises(ModelError, match=r"its folder .* does not exist either"):
        load(tmp_path / "no" / "m.onnx")


@pytest.mark.parametrize(
    ("opset", "message"),
    [(6, "is of opset 6; opsets 7 to "), (999, "is of opset 999; opsets 7 to .*export it at an older opset")],
)
def test_refuses_opsets_out_of_range(tmp_path: Path, opset: int, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load(_file(tmp_path, _proto(relu, opsets={"": opset})))


def test_refuses_a_model_without_opset(tmp_path: Path) -> None:
    proto = _proto(relu)
    del proto.opset_import[:]
    with pytest.raises(ModelError, match="imports no opset of the standard domain"):
        load(_file(tmp_path, proto))


def _branch(node: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph([node], "b", [], [helper.make_tensor_value_info(node.output[0], FLOAT, None)])


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (
            _proto(helper.make_node("Add", ["x", "b"], ["a"], "p"), helper.make_node("Relu", ["a"], ["b"], "q"),
                   helper.make_node("Relu", ["b"], ["y"])),
            "the graph has a cycle: (Add at p -> Relu at q -> Add at p|Relu at q -> Add at p -> Relu at q);",
        ),
        (
            _proto(helper.make_node("If", ["c"], ["y"], "if", then_branch=_branch(
                helper.make_node("Relu", ["y"], ["t"], "in")), else_branch=_branch(relu)),
                weights={"c": np.array(True)}),
            "the graph has a cycle: .*If at if",
        ),
        (
            _proto(helper.make_node("Rellu", ["x"], ["a"], "p"), helper.make_node("Rellu", ["a"], ["b"], "q"),
                   helper.make_node("Zwiebel", ["b"], ["y"], "r")),
            r"3 unknown operators\. Rellu is no operator of ONNX \(did you mean .*Relu.*\): Rellu at p, Rellu at q; "
            "Zwiebel is no operator of ONNX: Zwiebel at r",
        ),
        (_proto(helper.make_node("Gelu", ["x"], ["y"], "g")), "Gelu is not in opset 18, it came with opset 20"),
        (
            _proto(helper.make_node("If", ["c"], ["y"], then_branch=_branch(
                helper.make_node("Zwiebel", ["x"], ["t"], "in")), else_branch=_branch(
                    helper.make_node("Relu", ["x"], ["u"]))), weights={"c": np.array(True)}),
            "1 unknown operator. Zwiebel is no operator of ONNX: Zwiebel at in",
        ),
        (_proto(helper.make_node("Op", ["x"], ["y"], domain="acme")), "acme::Op is of a domain nobody knows"),
        (_proto(helper.make_node("Add", ["x", "z"], ["y"], "add")), "nobody produces 'z', read by Add at add"),
        (_proto(relu, outputs=("y", "q")), "nobody produces the output 'q'"),
        (_proto(relu, outputs=("y", "y")), "output 'y' is listed more than once"),
        (_proto(relu, inputs=("x", "x")), "input 'x' is listed more than once"),
        (_proto(relu, relu), "no valid ONNX graph: Output 'y' is redeclared"),
        (_proto(helper.make_node("Relu", ["x"], ["x"]), outputs=("x",)), "Output 'x' is redeclared"),
    ],
    ids=["cycle", "cycle-through-subgraph", "unknown", "too-new", "unknown-inside", "domain", "unproduced-input",
         "unproduced-output", "output-twice", "input-twice", "produced-twice", "in-place"],
)  # fmt: skip
def test_refuses_broken_graphs(tmp_path: Path, proto: onnx.ModelProto, message: str) -> None:
    path = _file(tmp_path, proto)
    with pytest.raises(ModelError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(str(path))
    with pytest.raises(ModelError, match=message):
        load(proto)


def test_refuses_sparse_weights(tmp_path: Path) -> None:
    proto = _proto(helper.make_node("Identity", ["w"], ["y"]))
    values = numpy_helper.from_array(np.ones(1, np.float32), "w")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3]))
    with pytest.raises(ModelError, match=r"sparse initializers are not read \(w\)"):
        load(_file(tmp_path, proto))


@pytest.mark.parametrize("size", [0, 4, 4999])
def test_refuses_weights_of_the_wrong_length(tmp_path: Path, size: int) -> None:
    proto = _proto(helper.make_node("Identity", ["w"], ["y"]), weights={"w": np.ones(5000, np.float32)})
    proto.graph.initializer[0].raw_data = bytes(size * 4)
    with pytest.raises(ModelError, match=rf"float\[5000\] needs 20000 bytes, the file (holds|declares) {size * 4}"):
        load(_file(tmp_path, proto))


def test_refuses_example_inputs_for_a_finished_graph(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="args and dynamic are for tracing a torch module"):
        load(_file(tmp_path, _proto(relu)), args=(1,), dynamic={"x": {0: "batch"}})


def test_refuses_what_is_no_source() -> None:
    with pytest.raises(ModelError, match="a int is no model: expected a path"):
        load(7)  # type: ignore[arg-type]


# ---- folders


def test_a_folder_with_one_model_is_that_model(tmp_path: Path) -> None:
    _file(tmp_path, _proto(relu), "any.onnx")
    (tmp_path / "config.json").write_text("{}")
    assert lines(load(tmp_path)) == ["y = Relu(x)"]


def test_an_artifact_is_the_model_in_it(tmp_path: Path) -> None:
    _file(tmp_path, _proto(relu), "model.onnx")
    _file(tmp_path, _proto(helper.make_node("Abs", ["x"], ["y"])), "other.onnx")
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


# ---- package.module:function


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
    _file(here, _proto(relu), "a:b")
    assert lines(load("a:b")) == ["y = Relu(x)"]


def test_no_error_is_a_bare_exception() -> None:
    assert issubclass(ModelError, TersorError)
    assert ModelError.exit_code == 3
