"""Weights stay in their files, and files that are damaged or point elsewhere are refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from tersor.ir import skim
from tersor.ir.errors import ModelError
from tersor.ir.level import Level, violations
from tersor.ir.load import load

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
    """With 80 MB of weights, the peak grows by less than a quarter of them."""
    proto = _proto(helper.make_node("Identity", ["w"], ["y"]), weights={"w": np.ones((20, 1024, 1024), np.float32)})
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
    assert int(done.stdout) * unit < 20 * 1024 * 1024


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


def test_metadata_of_nodes_is_read_and_equal_strings_are_kept_once(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "w"], ["h"]), helper.make_node("Neg", ["h"], ["g"])]
    nodes += [helper.make_node("Add", ["g", "w"], ["y"])]
    proto = _proto(*nodes, weights={"w": np.ones(5000, np.float32)})
    for index in (0, 2):
        proto.graph.node[index].metadata_props.add(key="namespace", value="layer " + "0" * 40)
    proto.graph.node[2].metadata_props.add(key="number", value="2")
    first, second, third = (node.metadata_props for node in load(_file(tmp_path, proto)).graph)
    assert (first, second) == ({"namespace": "layer " + "0" * 40}, {})
    assert third == first | {"number": "2"}
    assert third["namespace"] is first["namespace"]


def test_refuses_a_truncated_model_at_every_length(tmp_path: Path) -> None:
    data = _file(
        tmp_path,
        _proto(helper.make_node("Add", ["x", "w"], ["y"]), weights={"w": np.ones(1100, np.float32)}),
    ).read_bytes()
    assert skim.MAPPED_FROM < 4400
    path = tmp_path / "cut.onnx"
    for length in (*range(1, 60), 100, 2000, len(data) // 2, *range(len(data) - 60, len(data))):
        path.write_bytes(data[:length])
        with pytest.raises(ModelError):
            load(path)


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
