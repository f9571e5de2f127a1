from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from tersor.backends.base import Interface
from tersor.backends.openvino.backend import OpenVino
from tersor.backends.openvino.frontend import missing_ops
from tersor.ir.errors import ModelError, UnsupportedError
from tersor.ir.feeds import random_feeds
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.pipeline import Pipeline
from tersor.passes.quantize.quantize_dynamic import QuantizeDynamic

openvino = pytest.importorskip("openvino")

RNG = np.random.default_rng(0)
GROUP = "DYNAMIC_QUANTIZATION_GROUP_SIZE"
#: float32 sums of a few hundred products, in another order than ONNX Runtime's.
TOLERANCE = 1e-5


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def linear() -> ir.Model:
    return graph(
        "p = MatMul(x, w)", "y = Relu(p)", inputs={"x": "float[batch, 64]"}, outputs=["y", "p"], w=normal(64, 32)
    )


GRAPHS = {
    "linear": linear(),
    "norm": graph(
        "n = LayerNormalization{axis=-1}(x, g, b)",
        "y = Gelu(n)",
        inputs={"x": "float[batch, s, 16]"},
        g=normal(16),
        b=normal(16),
    ),
    "rms": graph("y = RMSNormalization{axis=-1}(x, g)", inputs={"x": "float[batch, s, 16]"}, g=normal(16)),
    "rotary": graph(
        "y = RotaryEmbedding(x, c, s, p)",
        inputs={"x": "float[batch, 2, t, 8]", "p": "int64[batch, t]"},
        c=normal(32, 4),
        s=normal(32, 4),
    ),
    "lstm": graph(
        "(y, h, c) = LSTM{hidden_size=4}(x, w, r, b)",
        inputs={"x": "float[s, batch, 3]"},
        outputs=["y", "h", "c"],
        w=normal(1, 16, 3),
        r=normal(1, 16, 4),
        b=normal(1, 32),
    ),
    "gru": graph(
        "(y, h) = GRU{hidden_size=4, linear_before_reset=1, direction=bidirectional}(x, w, r, b)",
        inputs={"x": "float[s, batch, 3]"},
        outputs=["y", "h"],
        w=normal(2, 12, 3),
        r=normal(2, 12, 4),
        b=normal(2, 24),
    ),
    "half": graph("y = MatMul(x, w)", inputs={"x": "float16[batch, 8]"}, w=normal(8, 3).astype(np.float16)),
    "truth": graph("y = Not(x)", inputs={"x": "bool[n]"}),
    "unread input": graph("y = Relu(x)", inputs={"x": "float[n]", "z": "int64[n]"}),
    "passed through": graph("y = Identity(x)", inputs={"x": "float[n]"}),
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


def lowered(model: ir.Model, backend: OpenVino) -> ir.Model:
    backend.pipeline().apply(model, Context())
    return model


@pytest.mark.parametrize("name", GRAPHS)
def test_agrees_with_onnxruntime(name: str) -> None:
    model = GRAPHS[name].clone()
    feeds = random_feeds(model)
    wanted = reference(model, feeds)
    backend = OpenVino(threads=1)
    assert_close(backend.compile(lowered(model, backend)).run(feeds), wanted)


def test_what_was_written_opens_again(tmp_path: Path) -> None:
    model, backend = linear(), OpenVino(threads=1)
    backend.write(model, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["openvino.bin", "openvino.xml", "runtime.json"]
    session = backend.open(tmp_path, Interface.of(model))
    for size in (1, 7):
        feeds = random_feeds(model, {"batch": size})
        assert_close(session.run(feeds), reference(model, feeds))


def test_plain_openvino_runs_the_files(tmp_path: Path) -> None:
    model = linear()
    OpenVino(threads=1).write(model, tmp_path)
    feeds = random_feeds(model)
    np.savez(tmp_path / "feeds.npz", **feeds)
    program = """
import json, sys, numpy, openvino
model = openvino.compile_model("openvino.xml", **json.load(open("runtime.json")))
found = model(dict(numpy.load("feeds.npz")))
numpy.savez("found.npz", **{name: found[name] for name in ("y", "p")})
assert not any(name.partition(".")[0] == "tersor" for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, timeout=120)
    session = OpenVino(threads=1).open(tmp_path, Interface.of(model))
    found = np.load(tmp_path / "found.npz")
    for name, array in session.run(feeds).items():
        np.testing.assert_array_equal(found[name], array)


def test_options_reach_the_runtime(tmp_path: Path) -> None:
    OpenVino(threads=2, precision="bf16", performance="throughput").write(linear(), tmp_path)
    assert json.loads((tmp_path / "runtime.json").read_text(encoding="utf-8")) == {
        "device_name": "CPU",
        "config": {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": "bf16",
            "INFERENCE_NUM_THREADS": "2",
        },
    }
    OpenVino(precision="auto").write(linear(), tmp_path)
    assert json.loads((tmp_path / "runtime.json").read_text(encoding="utf-8"))["config"] == {
        "PERFORMANCE_HINT": "LATENCY"
    }


@pytest.mark.parametrize("performance", ["latency", "throughput"])
def test_threads_may_share_a_session(performance: str) -> None:
    model = graph("y = MatMul(x, w)", inputs={"x": "float[n, 64]"}, w=np.eye(64, dtype=np.float32))
    session = OpenVino(threads=2, performance=performance).compile(model)  # type: ignore[arg-type]
    wrong: list[int] = []

    def work(number: int) -> None:
        x = np.full((8, 64), number, np.float32)
        wrong.extend(number for _ in range(20) if not (session.run({"x": x})["y"] == number).all())

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_results_belong_to_the_caller() -> None:
    session = OpenVino().compile(GRAPHS["passed through"].clone())
    x = normal(4)
    first = session.run({"x": x})["y"]
    session.run({"x": x + 1})
    np.testing.assert_array_equal(first, x)
    assert not np.shares_memory(first, x)


def test_wrong_feeds_are_refused() -> None:
    session = OpenVino().compile(linear())
    with pytest.raises(ModelError, match="'x' is float64, not float32"):
        session.run({"x": np.zeros((2, 64))})
    with pytest.raises(ModelError, match="'z' is no input"):
        session.run({"x": normal(2, 64), "z": normal(1)})


def test_everything_missing_is_listed_at_once(tmp_path: Path) -> None:
    model = graph("a = com.microsoft.Foo(x)", "b = Relu(a)", "y = Bar(b)", inputs={"x": "float[n]"})
    listed = [str(op) for op in missing_ops(model)]
    assert listed == ["com.microsoft.Foo (opset 1)  at a   used by Relu at b", "Bar (opset 23)  at y"]
    with pytest.raises(UnsupportedError, match=r"openvino: 2 ops have no lowering") as caught:
        OpenVino().write(model, tmp_path)
    assert all(line in str(caught.value) for line in listed)
    assert list(tmp_path.iterdir()) == []
    assert OpenVino().supports(linear()) == []


def test_missing_ops_are_found_in_branches() -> None:
    branch = ir.Graph([], [], nodes=[], name="then")
    outside = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n"]))
    inner = ir.node("Foo", [outside], domain="my", name="inside")
    inner.outputs[0].name = "t"
    branch.append(inner)
    branch.outputs.append(inner.outputs[0])
    other = ir.node("Relu", [outside])
    other.outputs[0].name = "e"
    otherwise = ir.Graph([], [other.outputs[0]], nodes=[other], name="else")
    condition = ir.Value(name="c", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([]))
    choice = ir.node("If", [condition], {"then_branch": branch, "else_branch": otherwise}, name="choice")
    choice.outputs[0].name = "y"
    choice.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    body = ir.Graph([outside, condition], choice.outputs, nodes=[choice], opset_imports={"": 23, "my": 1}, name="g")
    assert [str(op) for op in missing_ops(ir.Model(body, ir_version=10))] == ["my.Foo (opset 1)  at inside"]


def test_what_is_no_artifact_is_refused(tmp_path: Path) -> None:
    interface = Interface.of(linear())
    with pytest.raises(ModelError, match=r"expected openvino.xml and openvino.bin"):
        OpenVino().open(tmp_path, interface)
    OpenVino().write(linear(), tmp_path)
    (tmp_path / "openvino.xml").write_text("<net", encoding="utf-8")
    with pytest.raises(ModelError, match=r"openvino.xml cannot be read"):
        OpenVino().open(tmp_path, interface)


def grouped(model: ir.Model, folder: Path, **options: int) -> str | None:
    """The group size that plain OpenVINO takes from the files when nobody says anything."""
    OpenVino(**options).write(model, folder)
    compiled = openvino.Core().compile_model(folder / "openvino.xml", "CPU")
    written = json.loads((folder / "runtime.json").read_text(encoding="utf-8"))["config"].get(GROUP)
    assert written is None or int(written) == int(compiled.get_property(GROUP))
    return None if written is None else str(written)


def test_activations_are_quantized_only_where_the_model_says_so(tmp_path: Path) -> None:
    backend = OpenVino()
    assert grouped(linear(), tmp_path) is None
    dynamic = linear()
    QuantizeDynamic().apply(dynamic, Context())
    stored = dynamic.clone()
    assert grouped(lowered(dynamic, backend), tmp_path) == "32"
    assert grouped(dynamic, tmp_path, group=64) == "64"
    for node in stored.graph:
        if node.op_type == "MatMul":
            node.replace_input_with(0, stored.graph.inputs[0])
    assert grouped(lowered(stored, backend), tmp_path) == "0"


@pytest.mark.parametrize("options", [{}, {"rows": True}])
def test_quantized_weights_stay_small_and_close(tmp_path: Path, options: dict[str, bool]) -> None:
    model = graph("y = MatMul(x, w)", inputs={"x": "float[n, 256]"}, w=normal(256, 256))
    feeds = random_feeds(model, {"n": 9})
    wanted = reference(model, feeds)["y"]
    QuantizeDynamic(**options).apply(model, Context())
    backend = OpenVino()
    lowered(model, backend).graph.sort()
    backend.write(model, tmp_path)
    assert (tmp_path / "openvino.bin").stat().st_size < 256 * 256 * 1.2
    got = backend.open(tmp_path, Interface.of(model)).run(feeds)["y"]
    assert np.linalg.norm(got - wanted) <= 0.02 * np.linalg.norm(wanted)


def test_the_lowering_is_text_and_back() -> None:
    pipeline = OpenVino().pipeline()
    assert Pipeline.of(pipeline.text()) == pipeline


def test_minilm_agrees_with_onnxruntime(minilm_onnx) -> None:  # type: ignore[no-untyped-def]
    model = ir.load(minilm_onnx(23))
    feeds = random_feeds(model, {"batch": 3, "sequence": 17})
    wanted = onnxruntime.InferenceSession(minilm_onnx(23), providers=["CPUExecutionProvider"]).run(None, feeds)[0]
    backend = OpenVino(threads=1)
    lowered(model, backend)
    assert not any(node.op_type == "Attention" for node in model.graph)
    got = backend.compile(model).run(feeds)["last_hidden_state"]
    assert np.linalg.norm(got - wanted) <= 2e-6 * np.linalg.norm(wanted)
