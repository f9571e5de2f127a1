from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch as pytorch
from tersor.backends.base import Interface
from tersor.backends.torch.backend import Torch
from tersor.ir.dimensions import set_ranges
from tersor.ir.errors import ModelError, UnsupportedError
from tersor.ir.feeds import random_feeds
from tersor.ir.text import graph

RNG = np.random.default_rng(0)
#: float32 sums of a few hundred products, in another order than ONNX Runtime's.
TOLERANCE = 1e-5


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def linear() -> ir.Model:
    return graph(
        "p = MatMul(x, w)", "y = Relu(p)", inputs={"x": "float[batch, 64]"}, outputs=["y", "p"], w=normal(64, 32)
    )


def sized() -> ir.Model:
    """The same batch in two inputs, a sequence that a table of positions limits to 24."""
    model = graph(
        "s = Shape{start=1, end=2}(x)",
        "p = Slice(table, [0], s, [0])",
        "a = Add(x, p)",
        "y = Add(a, z)",
        inputs={"x": "float[batch, sequence, 4]", "z": "float[batch, 1, 4]"},
        table=normal(24, 4),
    )
    set_ranges(model, {"sequence": (1, 24)})
    return model


def branching() -> ir.Model:
    """Relu or Neg, as the sign of the first element says."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n"]))
    branches = []
    for op, name in (("Relu", "then"), ("Neg", "else")):
        node = ir.node(op, [x])
        node.outputs[0].name = name
        branches.append(ir.Graph([], node.outputs, nodes=[node], name=name))
    model = graph("f = ReduceMax{keepdims=0}(x)", "c = Greater(f, 0.0)", "r = Relu(x)", inputs={"x": "float[n]"})
    body = model.graph
    x_outer = body.inputs[0]
    for branch in branches:
        branch[0].replace_input_with(0, x_outer)
    condition = next(node.outputs[0] for node in body if node.op_type == "Greater")
    choice = ir.node("If", [condition], {"then_branch": branches[0], "else_branch": branches[1]}, name="choice")
    choice.outputs[0].name = "y"
    choice.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    choice.outputs[0].shape = ir.Shape(["n"])
    body.append(choice)
    body.outputs[:] = [choice.outputs[0]]
    body.remove(next(node for node in body if node.op_type == "Relu"), safe=False)
    return model


GRAPHS = {
    "linear": linear(),
    "sized": sized(),
    "attention": graph(
        "y = Attention(q, k, v, m)",
        inputs={**dict.fromkeys("qkv", "float[batch, 4, s, 8]"), "m": "bool[batch, 1, s, s]"},
    ),
    "lstm": graph(
        "(y, h, c) = LSTM{hidden_size=4}(x, w, r, b)",
        inputs={"x": "float[s, batch, 3]"},
        outputs=["y", "h", "c"],
        w=normal(1, 16, 3),
        r=normal(1, 16, 4),
        b=normal(1, 32),
    ),
    "quantized": graph(
        "(q, s, z) = DynamicQuantizeLinear(x)",
        "d = DequantizeLinear(q, s, z)",
        "w = DequantizeLinear{axis=1}(stored, scale)",
        "y = MatMul(d, w)",
        inputs={"x": "float[n, 16]"},
        outputs=["y", "q"],
        stored=RNG.integers(-63, 64, (16, 8)).astype(np.int8),
        scale=np.full(8, 0.01, np.float32),
    ),
    "half": graph("y = Mul(x, x)", inputs={"x": "float16[n]"}),
    "unread input": graph("y = Relu(x)", inputs={"x": "float[n]", "z": "int64[n]"}),
    "constant": graph("y = Identity(w)", "z = Relu(x)", inputs={"x": "float[n]"}, outputs=["y", "z"], w=normal(3)),
    "branching": branching(),
}


def reference(model: ir.Model, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name or "" for value in model.graph.outputs]
    return dict(zip(names, session.run(names, feeds), strict=True))


def assert_close(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert list(got) == list(wanted)
    for name, array in wanted.items():
        assert got[name].dtype == array.dtype
        assert got[name].shape == array.shape
        tolerance = 1e-3 if array.dtype == np.float16 else TOLERANCE
        np.testing.assert_allclose(got[name].astype(float), array.astype(float), rtol=tolerance, atol=tolerance)


def program_of(folder: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((folder / "runtime.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("name", GRAPHS)
def test_agrees_with_onnxruntime(name: str) -> None:
    model = GRAPHS[name]
    feeds = random_feeds(model)
    assert_close(Torch(threads=1).compile(model).run(feeds), reference(model, feeds))


@pytest.mark.parametrize("name", GRAPHS)
def test_what_was_exported_opens_again(name: str, tmp_path: Path) -> None:
    model, backend = GRAPHS[name], Torch(threads=1)
    backend.write(model, tmp_path)
    assert program_of(tmp_path) == {"program": "model.pt2"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt2", "runtime.json"]
    feeds = random_feeds(model)
    assert_close(backend.open(tmp_path, Interface.of(model)).run(feeds), reference(model, feeds))


def test_every_size_in_range_runs_after_export(tmp_path: Path) -> None:
    model, backend = sized(), Torch(threads=1)
    backend.write(model, tmp_path)
    session = backend.open(tmp_path, Interface.of(model))
    for batch, sequence in ((1, 1), (1, 24), (5, 2), (4, 4)):
        feeds = random_feeds(model, {"batch": batch, "sequence": sequence})
        assert_close(session.run(feeds), reference(model, feeds))
    with pytest.raises(ModelError, match="sequence"):
        session.run({"x": normal(1, 25, 4), "z": normal(1, 1, 4)})


def test_both_branches_are_in_the_program(tmp_path: Path) -> None:
    model, backend = branching(), Torch(threads=1)
    backend.write(model, tmp_path)
    assert program_of(tmp_path) == {"program": "model.pt2"}
    session = backend.open(tmp_path, Interface.of(model))
    for x in (normal(4), -np.abs(normal(4))):
        assert_close(session.run({"x": x}), reference(model, {"x": x}))


def test_what_cannot_be_exported_is_written_as_onnx(tmp_path: Path) -> None:
    """Rows of a loop that ends on its data: how many there are is known only afterwards."""
    text = """
    <ir_version: 10, opset_import: ["" : 21]>
    g (float[1] x) => (float[1] y, float[n, 1] rows) {
        yes = Constant <value = bool {1}> ()
        y, rows = Loop (, yes, x) <
            body = b (int64 i, bool c, float[1] a) => (bool d, float[1] out, float[1] row) {
                out = Add (a, a)
                row = Neg (out)
                nine = Constant <value_floats = [9.0]> ()
                less = Less (out, nine)
                axes = Constant <value_ints = [0]> ()
                d = Squeeze (less, axes)
            }
        >
    }
    """
    model, backend = ir.from_onnx_text(text), Torch(threads=1)
    backend.write(model, tmp_path)
    runtime = program_of(tmp_path)
    assert runtime["program"] == "model.onnx"
    assert runtime["reason"].startswith("torch.export")
    session = backend.open(tmp_path, Interface.of(model))
    for x in (np.ones(1, np.float32), np.full(1, 20, np.float32)):
        assert_close(session.run({"x": x}), reference(ir.load(tmp_path / "model.onnx"), {"x": x}))


def test_a_recurrent_layer_keeps_its_length(tmp_path: Path) -> None:
    Torch().write(GRAPHS["lstm"], tmp_path)
    session = Torch().open(tmp_path, Interface.of(GRAPHS["lstm"]))
    for length in (1, 5, 40):
        feeds = random_feeds(GRAPHS["lstm"], {"s": length})
        assert_close(session.run(feeds), reference(GRAPHS["lstm"], feeds))


def test_sizes_that_export_would_relate_are_not_exported(tmp_path: Path) -> None:
    model = graph(
        "n = Shape{start=0, end=1}(x)", "r = Reshape(z, n)", "y = Add(x, r)", inputs={"x": "float[a]", "z": "float[b]"}
    )
    Torch().write(model, tmp_path)
    feeds = {"x": normal(6), "z": normal(6)}
    assert_close(Torch().open(tmp_path, Interface.of(model)).run(feeds), reference(model, feeds))


def test_plain_torch_runs_the_file(tmp_path: Path) -> None:
    model = linear()
    Torch().write(model, tmp_path)
    feeds = random_feeds(model, {"batch": 5})
    np.save(tmp_path / "x.npy", feeds["x"])
    program = """
import sys, numpy, torch
torch.set_num_threads(1)
module = torch.export.load("model.pt2").module()
with torch.inference_mode():
    y, p = module(torch.from_numpy(numpy.load("x.npy")))
numpy.savez("found.npz", y=y.numpy(), p=p.numpy())
assert not any(name.partition(".")[0] == "tersor" for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, timeout=240)
    found = np.load(tmp_path / "found.npz")
    for name, array in Torch(threads=1).open(tmp_path, Interface.of(model)).run(feeds).items():
        np.testing.assert_array_equal(found[name], array)


def test_threads_are_set_for_the_run_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    before = pytorch.get_num_threads()
    session = Torch(threads=before + 1).compile(linear())
    monkeypatch.setattr(pytorch.nn.Module, "__call__", _spy(seen))
    session.run({"x": normal(2, 64)})
    assert seen[0] == before + 1
    assert pytorch.get_num_threads() == before


def _spy(seen: list[int]):  # type: ignore[no-untyped-def]
    def call(module: pytorch.nn.Module, *inputs: pytorch.Tensor) -> object:
        seen.append(pytorch.get_num_threads())
        return module.forward(*inputs)

    return call


def test_threads_are_put_back_after_an_error() -> None:
    before = pytorch.get_num_threads()
    model = graph("y = MatMul(x, z)", inputs={"x": "float[a, b]", "z": "float[c, d]"})
    with pytest.raises(ModelError, match="does not run on these feeds"):
        Torch(threads=before + 1).compile(model).run({"x": normal(2, 3), "z": normal(4, 5)})
    assert pytorch.get_num_threads() == before


def test_results_belong_to_the_caller() -> None:
    model = graph(
        "y = Identity(x)", "z = Identity(w)", inputs={"x": "float[n]"}, outputs=["y", "z"], w=np.ones(3, np.float32)
    )
    session, x = Torch().compile(model), np.zeros(3, np.float32)
    found = session.run({"x": x})
    found["y"] += 1
    found["z"] += 1
    assert (x == 0).all()
    assert (session.run({"x": x})["z"] == 1).all()


def test_wrong_feeds_are_refused() -> None:
    session = Torch().compile(linear())
    with pytest.raises(ModelError, match="'x' is float64, not float32"):
        session.run({"x": np.zeros((2, 64))})
    with pytest.raises(ModelError, match="'z' is no input"):
        session.run({"x": normal(2, 64), "z": normal(1)})


def test_everything_missing_is_listed_at_once(tmp_path: Path) -> None:
    model = graph("a = com.microsoft.Foo(x)", "b = Relu(a)", "y = Bar(b)", inputs={"x": "float[n]"})
    with pytest.raises(UnsupportedError, match="torch: 2 ops have no lowering") as caught:
        Torch().write(model, tmp_path)
    assert [op.op for op in Torch().supports(model)] == ["com.microsoft.Foo", "Bar"]
    assert all(str(op) in str(caught.value) for op in Torch().supports(model))
    assert list(tmp_path.iterdir()) == []
    assert Torch().supports(linear()) == []


def test_a_missing_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytorch.cuda, "is_available", lambda: False)
    with pytest.raises(UnsupportedError, match="finds no CUDA device here"):
        Torch(device="cuda").compile(linear())


def test_what_is_no_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"expected model.pt2 or model.onnx"):
        Torch().open(tmp_path, Interface.of(linear()))
    (tmp_path / "model.pt2").write_bytes(b"no archive")
    with pytest.raises(ModelError, match=r"model.pt2 is no complete .pt2 archive"):
        Torch().open(tmp_path, Interface.of(linear()))


@pytest.mark.slow
def test_minilm_agrees_with_onnxruntime(minilm_onnx, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model, backend = ir.load(minilm_onnx(23)), Torch(threads=1)
    backend.write(model, tmp_path)
    assert program_of(tmp_path) == {"program": "model.pt2"}
    session = backend.open(tmp_path, Interface.of(model))
    plain = onnxruntime.InferenceSession(minilm_onnx(23), providers=["CPUExecutionProvider"])
    for batch, sequence in ((1, 16), (3, 17)):
        feeds = random_feeds(model, {"batch": batch, "sequence": sequence})
        wanted = plain.run(None, feeds)[0]
        got = session.run(feeds)["last_hidden_state"]
        assert np.linalg.norm(got - wanted) <= 2e-6 * np.linalg.norm(wanted)
