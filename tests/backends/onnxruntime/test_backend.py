from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import tersor
from onnx import TensorProto, helper
from tersor.backends.base import Interface
from tersor.backends.catalogue import create
from tersor.backends.onnxruntime.backend import OnnxRuntime
from tersor.backends.onnxruntime.probe import missing_ops
from tersor.ir.dimensions import set_ranges
from tersor.ir.errors import ModelError, OptionError, UnsupportedError
from tersor.ir.text import graph

CPU = "CPUExecutionProvider"
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def linear() -> ir.Model:
    model = graph("y = MatMul(x, w)", inputs={"x": "float[n, 3]"}, w=np.ones((3, 4), np.float32))
    set_ranges(model, {"n": (1, 8)})
    return model


def proto(*nodes: onnx.NodeProto, functions: tuple[onnx.FunctionProto, ...] = (), dtype: int = 1) -> ir.Model:
    """A model from x [n] and c [] (bool) to y [n]."""
    inputs = [
        helper.make_tensor_value_info("x", dtype, ["n"]),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
    ]
    outputs = [helper.make_tensor_value_info("y", dtype, ["n"])]
    domains = {"": 17, "com.microsoft": 1} | {function.domain: 1 for function in functions}
    made = helper.make_model(
        helper.make_graph(list(nodes), "g", inputs, outputs),
        opset_imports=[helper.make_opsetid(domain, number) for domain, number in domains.items()],
        functions=list(functions),
        ir_version=9,
    )
    return tersor.load(made)


def foreign(x: str, y: str, name: str) -> onnx.NodeProto:
    return helper.make_node("NoSuchOp", [x], [y], domain="com.microsoft", name=name)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "'x' is missing"),
        ({"x": X, "z": X}, "'z' is no input"),
        ({"x": X.astype(np.float64)}, "'x' is float64, not float32"),
        ({"x": X[0]}, r"'x' has 1 axes \[3\], not 2"),
        ({"x": X[:, :2]}, "'x' has size 2 on axis 1, not 3"),
        ({"x": np.zeros((9, 3), np.float32)}, r"'x' has n 9, outside 1\.\.8"),
    ],
)
def test_wrong_feeds_are_refused(feeds: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        OnnxRuntime(threads=1).compile(linear()).run(feeds)


def test_numbers_are_refused_where_text_is_wanted() -> None:
    session = OnnxRuntime(threads=1).compile(graph("y = Identity(x)", inputs={"x": "string[n]"}))
    assert session.run({"x": np.array(["a", "b"])})["y"].tolist() == ["a", "b"]
    with pytest.raises(ModelError, match="'x' is float64, not text"):
        session.run({"x": np.ones(2)})


@pytest.mark.parametrize("target", ["onnxruntime", "torch"])
def test_what_the_model_fails_on_is_an_error_of_the_model(target: str, capfd: pytest.CaptureFixture[str]) -> None:
    model = graph("y = Gather(t, i)", inputs={"i": "int64[n]"}, t=np.ones((3, 4), np.float32))
    with pytest.raises(ModelError, match=r"the model does not run on these feeds: .*out of.* bounds"):
        create(target).compile(model).run({"i": np.array([7])})
    assert capfd.readouterr().err == ""


def test_a_list_is_as_good_as_an_array() -> None:
    model = graph("y = Add(i, i)", inputs={"i": "int64[n]"})
    feeds = {"i": [1, 2]}
    assert OnnxRuntime(threads=1).compile(model).run(feeds)["y"].tolist() == [2, 4]  # type: ignore[arg-type]


def test_plain_onnxruntime_runs_what_was_written(tmp_path: Path) -> None:
    OnnxRuntime().write(linear(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    plain = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=[CPU]).run(None, {"x": X})[0]
    opened = OnnxRuntime().open(tmp_path, Interface.of(linear())).run({"x": X})["y"]
    np.testing.assert_array_equal(plain, opened)


def test_everything_missing_is_listed_at_once() -> None:
    model = proto(
        foreign("x", "a", "first"), helper.make_node("Relu", ["a"], ["b"], name="r"), foreign("b", "y", "last")
    )
    with pytest.raises(UnsupportedError) as caught:
        OnnxRuntime().compile(model)
    assert str(caught.value).splitlines() == [
        "onnxruntime: 1 op has no lowering",
        "  com.microsoft.NoSuchOp (opset 1)  at first and 1 more   used by r",
        "  hint: rewrite these ops by a pass, or try another --target",
    ]
    assert [op.place for op in OnnxRuntime().supports(model)] == ["first", "last"]


def test_missing_ops_are_found_in_functions_and_branches() -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    function = helper.make_function("my", "F", ["x"], ["y"], [foreign("x", "y", "inside")], opsets)
    called = proto(helper.make_node("F", ["x"], ["y"], domain="my", name="call"), functions=(function,))
    assert [op.op for op in missing_ops(called, CPU)] == ["com.microsoft.NoSuchOp"]
    assert called.functions
    with pytest.raises(UnsupportedError, match=r"NoSuchOp \(opset 1\)"):
        OnnxRuntime().compile(called)
    branches = {
        f"{name}_branch": helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, 1, ["n"])])
        for name, node in (
            ("then", foreign("x", "then", "inside")),
            ("else", helper.make_node("Relu", ["x"], ["else"])),
        )
    }
    chosen = proto(helper.make_node("If", ["c"], ["y"], name="if", **branches))
    assert [op.place for op in missing_ops(chosen, CPU)] == ["inside"]


@pytest.mark.parametrize(
    ("op", "dtype", "missing"),
    [
        ("Erf", TensorProto.FLOAT, []),
        ("Erf", TensorProto.DOUBLE, ["Erf"]),
        ("Sin", TensorProto.DOUBLE, []),
        ("Relu", TensorProto.FLOAT16, []),
    ],
)
def test_the_probe_says_what_a_session_does(op: str, dtype: int, missing: list[str]) -> None:
    model = proto(helper.make_node(op, ["x"], ["y"], name="it"), dtype=dtype)
    assert [item.op for item in missing_ops(model, CPU)] == missing
    data = ir.to_proto(model).SerializeToString()
    try:
        onnxruntime.InferenceSession(data, providers=[CPU])
    except Exception:
        assert missing
    else:
        assert not missing


def test_a_damaged_file_is_an_error_of_the_model(tmp_path: Path) -> None:
    OnnxRuntime().write(linear(), tmp_path)
    file = tmp_path / "model.onnx"
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ModelError, match=r"model\.onnx"):
        OnnxRuntime().open(tmp_path, Interface.of(linear()))


def test_what_is_no_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no artifact for onnxruntime: expected model\.onnx"):
        OnnxRuntime().open(tmp_path, Interface.of(linear()))


def test_an_unknown_provider_is_refused_with_the_known_ones() -> None:
    with pytest.raises(OptionError, match=r"no provider 'npu' here; .*cpu"):
        OnnxRuntime(provider="npu").compile(linear())


def test_sessions_outlive_each_other_and_leave_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first, second = OnnxRuntime().compile(linear()), OnnxRuntime().compile(linear())
    del first
    assert second.run({"x": X})["y"].shape == (2, 4)
    del second
    assert list(tmp_path.iterdir()) == []
