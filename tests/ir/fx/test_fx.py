"""The module `to_fx` makes: names, parameters, memory, missing ops; and the interpreter's taps and liveness."""

from __future__ import annotations

import gc
import wave
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir
import onnxruntime
import pytest
import torch
from tersor.ir.errors import ModelError, OptionError, PassError, UnsupportedError
from tersor.ir.fx import Interpreter, missing, to_fx
from tersor.ir.fx.lowering import lookup, merged, standard
from tersor.ir.fx.table import DEVICE
from tersor.ir.text import graph


def linear() -> onnx_ir.Model:
    return graph(
        "h = MatMul(x, layer.0.weight)",
        "z = Add(h, layer.0.bias)",
        "y = Relu(z)",
        "i = Gather(big, [0])",
        outputs=["y", "i"],
        **{
            "layer.0.weight": np.eye(3, dtype=np.float32) * 2,
            "layer.0.bias": np.array([-1, 0, 1], np.float32),
            "big": np.arange(200),
        },
    )


def test_it_is_called_by_position_or_name_and_returns_outputs_in_order() -> None:
    module = to_fx(linear())
    x = torch.tensor([[1.0, 2.0, -3.0]])
    for y, i in (module(x), module(x=x)):
        assert y.tolist() == [[1, 4, 0]]
        assert i.tolist() == [0]
    assert module.meta["inputs"] == ("x",)
    assert module.meta["outputs"] == ("y", "i")


@pytest.mark.parametrize(("first", "second"), [("X", "x"), ("a.b", "a_b")])
def test_inputs_of_nearly_one_name_are_two(first: str, second: str) -> None:
    inputs = {first: "float[2]", second: "float[3]"}
    module = to_fx(graph(f"y = Neg({first})", f"z = Exp({second})", inputs=inputs, outputs=["y", "z"]))
    y, z = module(torch.ones(2), torch.zeros(3))
    assert y.tolist() == [-1, -1]
    assert z.tolist() == [1, 1, 1]


def test_an_input_keeps_its_capital_letters() -> None:
    assert to_fx(graph("y = Neg(X)", inputs={"X": "float[2]"}))(X=torch.ones(2)).tolist() == [-1, -1]


def test_one_output_is_the_tensor_itself() -> None:
    assert isinstance(to_fx(graph("y = Relu(x)"))(torch.zeros(2)), torch.Tensor)


def test_parameters_keep_the_initializers_names() -> None:
    module = to_fx(linear())
    assert dict(module.named_parameters()).keys() == {"layer.0.weight", "layer.0.bias"}
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert dict(module.named_buffers()).keys() == {"big"}
    assert module.meta["initializers"] == {name: name for name in ("layer.0.weight", "layer.0.bias", "big")}


def test_names_that_are_no_python_are_made_so() -> None:
    weight = np.ones(2, np.float32)
    names = {"a/w:0": weight, "a_w_0": weight * 2, "b": weight * 3, "b.c": weight * 4, "forward": weight * 5}
    values = {
        name: onnx_ir.Value(name=name, const_value=onnx_ir.tensor(array, name=name)) for name, array in names.items()
    }
    x = onnx_ir.Value(name="in put.1", type=onnx_ir.TensorType(onnx_ir.DataType.FLOAT), shape=onnx_ir.Shape([2]))
    total = onnx_ir.node("Sum", [x, *values.values()], name="sum")
    total.outputs[0].name = "out::0"
    body = onnx_ir.Graph([x], total.outputs, nodes=[total], initializers=values.values(), opset_imports={"": 21})
    module = to_fx(onnx_ir.Model(body, ir_version=10))
    assert module(in_put_1=torch.zeros(2)).tolist() == [15, 15]
    for name, path in module.meta["initializers"].items():
        np.testing.assert_array_equal(module.get_parameter(path).detach().numpy(), names[name])
    assert [node.meta["onnx_name"] for node in module.graph.find_nodes(op="placeholder")] == ["in put.1"]
    assert module.meta["outputs"] == ("out::0",)


def test_every_node_says_what_it_computes_and_for_whom() -> None:
    nodes = [node for node in to_fx(linear()).graph.nodes if node.op == "call_function"]
    assert [node.meta["onnx_name"] for node in nodes] == ["h", "z", "y", "i"]
    assert [node.meta["source"] for node in nodes] == ["MatMul at h", "Add at z", "Relu at y", "Gather at i"]


def test_weights_share_the_initializers_memory() -> None:
    model = linear()
    weight = model.graph.initializers["layer.0.weight"].const_value
    assert weight is not None
    module = to_fx(model)
    assert np.shares_memory(module.get_parameter("layer.0.weight").detach().numpy(), weight.numpy())
    copied = to_fx(model, copy=True)
    assert not np.shares_memory(copied.get_parameter("layer.0.weight").detach().numpy(), weight.numpy())


@pytest.mark.filterwarnings("error")
def test_external_weights_are_mapped_not_read(tmp_path: Path) -> None:
    model = graph("y = MatMul(x, w)", w=np.ones((64, 64), np.float32))
    onnx_ir.save(model, tmp_path / "model.onnx", external_data="weights.bin")
    loaded = onnx_ir.load(tmp_path / "model.onnx")
    tensor = loaded.graph.initializers["w"].const_value
    assert isinstance(tensor, onnx_ir.ExternalTensor)
    module = to_fx(loaded)
    assert np.shares_memory(module.get_parameter("w").detach().numpy(), tensor.numpy())
    assert module(torch.ones(1, 64)).tolist() == [[64.0] * 64]


def test_bfloat16_weights_share_memory_too() -> None:
    array = np.array([1.5, -2.0]).astype(onnx_ir.DataType.BFLOAT16.numpy())
    model = graph("y = Add(x, w)", inputs={"x": "bfloat16[2]"}, w=array)
    parameter = to_fx(model).get_parameter("w").detach()
    assert parameter.dtype is torch.bfloat16
    tensor = model.graph.initializers["w"].const_value
    assert tensor is not None
    assert parameter.data_ptr() == tensor.numpy().__array_interface__["data"][0]


def test_gradients_reach_the_parameters() -> None:
    module = to_fx(linear())
    found = Interpreter(module).tensors({"x": torch.ones(1, 3)}, grad=True)
    found["y"].sum().backward()
    gradient = module.get_parameter("layer.0.weight").grad
    assert gradient is not None
    assert gradient.abs().sum() > 0
    assert not Interpreter(module).tensors({"x": torch.ones(1, 3)})["y"].requires_grad


def test_missing_ops_are_reported_all_at_once() -> None:
    model = graph("s = Whiten(x, n)", "t = Inverse(s)", "u = Whiten(t, n)", "y = Bend{angle=1}(u)", opset=17)
    assert [item.op for item in missing(model)] == ["Whiten", "Inverse", "Whiten", "Bend"]
    with pytest.raises(UnsupportedError) as caught:
        to_fx(model)
    assert str(caught.value).splitlines() == [
        "torch.fx: 3 ops have no lowering",
        "  Whiten (opset 17)  at s and 1 more   used by t",
        "  Inverse (opset 17)  at t   used by u",
        "  Bend (opset 17)  at y",
        "  hint: decompose them into standard ops first, or add a row to the table of their family in ir/fx",
    ]


def test_an_attribute_that_no_lowering_knows_is_missing_too() -> None:
    (item,) = missing(graph("y = Softmax{axis=1, temperature=2.0}(x)"))
    assert item.op == "Softmax{temperature}"


def test_the_newest_row_not_beyond_the_opset_is_taken() -> None:
    names = [lookup(DEVICE, "", "Softmax", opset).function.__name__ for opset in (7, 12, 13, 23)]  # type: ignore[union-attr]
    assert names == ["softmax_1", "softmax_1", "softmax", "softmax"]
    assert lookup(DEVICE, "", "Attention", 22) is None


def test_two_rows_for_one_op_are_refused() -> None:
    table = standard({"Relu": torch.relu})
    with pytest.raises(PassError, match=r"ai\.onnx\.Relu since 1"):
        merged(table, table)


def test_taps_by_name_stream_in_order_of_execution() -> None:
    seen: list[tuple[str, list[int]]] = []
    runner = Interpreter(to_fx(linear()))
    feeds = {"x": np.ones((2, 3), np.float32)}
    runner.run(feeds, taps=["y", "h"], tap=lambda name, value: seen.append((name, list(value.shape))))
    assert seen == [("h", [2, 3]), ("y", [2, 3])]


def test_taps_without_a_function_join_the_result() -> None:
    found = Interpreter(to_fx(linear())).run({"x": np.ones((1, 3), np.float32)}, taps=["h"])
    assert found.keys() == {"h", "y", "i"}
    assert found["h"].tolist() == [[2, 2, 2]]


def test_a_tap_on_shape_arithmetic_sees_a_tensor() -> None:
    found = Interpreter(to_fx(graph("s = Shape(x)", "y = Expand(1.0, s)"))).run(
        {"x": np.zeros((2, 3), np.float32)}, taps=["s"]
    )
    assert found["s"].tolist() == [2, 3]


def test_unknown_taps_and_feeds_are_named() -> None:
    runner = Interpreter(to_fx(graph("hidden = Relu(x)", "y = Neg(hidden)")))
    with pytest.raises(OptionError, match="no value named 'hiden' can be tapped; did you mean hidden"):
        runner.run({"x": np.zeros(1, np.float32)}, taps=["hiden"])
    with pytest.raises(ModelError, match="feed 'z': the model has no such input; known: x"):
        runner.run({"z": np.zeros(1, np.float32)})
    with pytest.raises(ModelError, match="input 'x' was not fed"):
        runner.run({})


def test_values_are_dropped_after_their_last_use() -> None:
    model = graph("a = Exp(x)", "b = Exp(a)", "c = Exp(b)", "d = Exp(c)", "y = Add(d, a)")
    alive: dict[str, weakref.ref[torch.Tensor]] = {}
    counts: list[set[str]] = []

    def tap(name: str, value: torch.Tensor) -> None:
        gc.collect()
        counts.append({other for other, ref in alive.items() if ref() is not None})
        alive[name] = weakref.ref(value)

    Interpreter(to_fx(model)).run({"x": np.zeros(4, np.float32)}, taps=["a", "b", "c", "d", "y"], tap=tap)
    assert counts == [set(), {"a"}, {"a", "b"}, {"a", "c"}, {"a", "d"}]


def exported(module: torch.fx.GraphModule) -> torch.export.ExportedProgram:
    batch, sequence = torch.export.Dim("batch", max=64), torch.export.Dim("sequence", max=512)
    ids = torch.ones(2, 7, dtype=torch.long)
    return torch.export.export(module, (ids, ids.clone(), ids * 0), dynamic_shapes=({0: batch, 1: sequence},) * 3)


def tokens(batch: int, sequence: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(batch * sequence)
    mask = np.ones((batch, sequence), np.int64)
    mask[0, sequence // 2 :] = 0
    ids = rng.integers(1000, 30000, (batch, sequence))
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 23])
def test_minilm_agrees_with_onnxruntime_and_exports_with_dynamic_shapes(
    minilm_onnx: Callable[[int], Path], opset: int
) -> None:
    path = minilm_onnx(opset)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    module = to_fx(onnx_ir.load(path))
    program = exported(module).module()
    for shape in ((1, 16), (3, 40)):
        feeds = tokens(*shape)
        (wanted,) = session.run(None, feeds)
        (found,) = Interpreter(module).run(feeds).values()
        assert np.linalg.norm(found - wanted) <= 1e-5 * np.linalg.norm(wanted)
        again = program(*(torch.from_numpy(value) for value in feeds.values())).detach().numpy()
        assert np.linalg.norm(again - wanted) <= 1e-5 * np.linalg.norm(wanted)


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("silero_vad_openvino_16k", None),
        ("silero_vad_16k_op15", 16000),
        ("silero_vad_op18_ifless", 16000),
        ("silero_vad_op18_ifless", 8000),
    ],
)
def test_silero_agrees_with_onnxruntime_on_speech(data_dir: Path, name: str, rate: int | None) -> None:
    folder = data_dir / "models" / "silero_vad"
    with wave.open(str(folder / "test.wav")) as file:
        audio = np.frombuffer(file.readframes(40 * 512), np.int16).astype(np.float32) / 32768
    window = 288 if rate == 8000 else 576
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(folder / f"{name}.onnx"), options, providers=["CPUExecutionProvider"])
    runner = Interpreter(to_fx(onnx_ir.load(folder / f"{name}.onnx")))
    state = np.zeros((2, 1, 128), np.float32)
    found, wanted = [], []
    for piece in audio[: len(audio) // window * window].reshape(-1, 1, window):
        feeds = {"input": piece, "state": state, **({} if rate is None else {"sr": np.array(rate)})}
        probability, state = session.run(None, feeds)
        ours = runner.run(feeds)
        found.append(np.append(ours["stateN"], ours["output"]))
        wanted.append(np.append(state, probability))
    assert np.max(np.array(wanted)[:, -1]) > 0.5 or rate == 8000
    for part in (np.s_[:, -1], np.s_[:, :-1]):
        a, b = np.array(found)[part], np.array(wanted)[part]
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b)


def test_a_division_by_zero_is_an_error_of_the_model() -> None:
    computed = graph(
        "s = Shape(x)", "zero = Sub(s, s)", "d = Div(s, zero)", "y = Expand(x, d)", inputs={"x": "float[n]"}
    )
    with pytest.raises(ModelError, match="Div at d cannot run"):
        Interpreter(to_fx(computed)).run({"x": np.ones(3, np.float32)})
    with pytest.raises(ModelError, match="Div at d: the op cannot be read"):
        to_fx(graph("d = Div(5, 0)", "y = Expand(x, d)"))


def test_a_failing_run_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    module = to_fx(graph("y = MatMul(x, x)", inputs={"x": "float[2, n]"}))
    with pytest.raises(ModelError, match="MatMul at y cannot run"):
        Interpreter(module).run({"x": np.ones((2, 3), np.float32)})
    assert capfd.readouterr().err == ""
