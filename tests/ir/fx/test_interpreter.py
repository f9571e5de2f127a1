"""The interpreter's limits: no value over the cap, no value held beyond its last use."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir
import pytest
import torch
from tersor.ir.errors import ModelError
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.fx.held import Held
from tersor.ir.fx.limit import Limit, TooLargeError
from tersor.ir.text import graph
from torch.utils._python_dispatch import TorchDispatchMode

HUGE = 1 << 40


@pytest.mark.parametrize(
    ("line", "inputs"),
    [
        ("y = Expand(x, dims)", {"x": "float[1]", "dims": "int64[2]"}),
        ("y = ConstantOfShape(dims)", {"dims": "int64[2]"}),
        ("y = Tile(x, dims)", {"x": "float[1, 1]", "dims": "int64[2]"}),
        ("y = Range(zero, end, step)", {"zero": "float[]", "end": "float[]", "step": "float[]"}),
        ("p = Add(x, z)\ny = Mul(p, p)", {"x": "float[4000000, 1]", "z": "float[1, 4000000]"}),
        ("y = MatMul(x, z)", {"x": "float[4000000, 1]", "z": "float[1, 4000000]"}),
        ("y = OneHot(at, depth, pair)", {"at": "int64[3]", "depth": "int64[]", "pair": "float[2]"}),
        ("y = Pad(x, dims)", {"x": "float[1]", "dims": "int64[2]"}),
    ],
)
@pytest.mark.parametrize("taps", [None, ["y"]])
def test_no_value_over_the_limit_is_allocated(line: str, inputs: Mapping[str, str], taps: Sequence[str] | None) -> None:
    model = graph(*line.split("\n"), inputs=inputs)
    known = {"dims": np.array([1 << 20, 1 << 20]), "depth": np.array(HUGE), "at": np.array([0, 1, 2])}
    known |= {"zero": np.float32(0), "end": np.float32(1e9), "step": np.float32(1e-3)}
    feeds = {
        name: np.asarray(known[name]) if name in known else np.ones(_shape(model, name), np.float32) for name in inputs
    }
    if "OneHot" in line:
        feeds["pair"] = np.array([0, 1], np.float32)
    if "Pad" in line:
        feeds["dims"] = np.array([HUGE, HUGE])
    with pytest.raises(ModelError, match=r"is over the limit of 8 GiB for one value"):
        Interpreter(to_fx(model)).run(feeds, taps=taps)


def test_the_limit_is_an_option() -> None:
    model = graph("y = Expand(x, dims)", "s = Mul(y, y)", inputs={"x": "float[1]"}, dims=[1000, 1000])
    feeds = {"x": np.ones(1, np.float32)}
    assert Interpreter(to_fx(model), limit=4_000_000).run(feeds)["s"].shape == (1000, 1000)
    with pytest.raises(ModelError, match=r"Expand .* a value of 3\.815 MiB .* over the limit of 3\.815 MiB"):
        Interpreter(to_fx(model), limit=3_999_999).run(feeds)


def test_what_the_bound_overestimates_still_runs() -> None:
    long = torch.ones(1 << 20)
    with Limit(1 << 30):
        assert torch.dot(long, long).item() == 1 << 20
        with pytest.raises(TooLargeError, match="TiB"):
            torch.outer(long, long)


def test_sizes_of_elementwise_ops_and_norms_need_no_shape_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own shape functions of these import its compiler."""
    monkeypatch.setattr(Limit, "_check", None)
    rows, width = torch.ones(64, 1024), torch.ones(1024)
    with Limit(1 << 24):
        assert (rows * width).shape == rows.shape
        assert torch.layer_norm(rows, [1024], width, width).shape == rows.shape


def test_elementwise_results_over_the_limit_are_refused() -> None:
    row = torch.ones(1 << 10)
    with Limit(1 << 20), pytest.raises(TooLargeError, match="4 MiB"):
        row * row[:, None]


def _shape(model: onnx_ir.Model, name: str) -> tuple[int, ...]:
    value = next(value for value in model.graph.inputs if value.name == name)
    assert value.shape is not None
    return tuple(value.shape.numpy())


class _Memory(TorchDispatchMode):
    """Bytes of the tensors made while it is active: now, and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_storage(tensor) for tensor in _tensors([args, kwargs or {}])}
        results = func(*args, **(kwargs or {}))
        for tensor in _tensors(results):
            storage = tensor.untyped_storage()
            # the meta device has no memory: the interpreter asks it what an op would allocate
            if tensor.device.type != "meta" and _storage(tensor) not in given | self._seen:
                self._seen.add(_storage(tensor))
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._free, _storage(tensor), storage.nbytes())
        return results

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


class _Lives(torch.fx.Interpreter):
    """Keeps every value, and finds when its storage is first and last needed."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.born: dict[int, tuple[int, int]] = {}
        self.last: dict[int, int] = {}
        self._kept: list[object] = []
        self._at = 0

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        for tensor in _tensors([args, kwargs, result]):
            self.last[_storage(tensor)] = self._at
        if n.op == "call_function":
            for tensor in _tensors(result):
                self.born.setdefault(_storage(tensor), (self._at, tensor.untyped_storage().nbytes()))
        else:
            for tensor in _tensors(result):
                self.born.setdefault(_storage(tensor), (self._at, 0))
        self._kept.append(result)
        self._at += 1
        return result

    def peak(self) -> int:
        def live(at: int) -> int:
            return sum(size for key, (born, size) in self.born.items() if born <= at <= self.last[key])

        return max(map(live, range(self._at)))


def _tensors(values: object) -> list[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        return [values]
    if isinstance(values, list | tuple | dict):
        return [
            tensor for value in (values.values() if isinstance(values, dict) else values) for tensor in _tensors(value)
        ]
    return []


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _encoder(layers: int) -> onnx_ir.Model:
    """Transformer layers as exporters spell them, [batch, sequence, 64] with 4 heads."""
    rng = np.random.default_rng(0)
    constants: dict[str, Any] = {"heads": [0, 0, 4, 16], "flat": [0, 0, 64], "ones": np.ones(64, np.float32)}
    lines: list[str] = []
    x = "x"
    for i in range(layers):
        for name, shape in {
            "q": (64, 64),
            "k": (64, 64),
            "v": (64, 64),
            "o": (64, 64),
            "u": (64, 256),
            "d": (256, 64),
        }.items():
            constants[f"w{name}{i}"] = rng.standard_normal(shape).astype(np.float32) / 8
        for name in "qkv":
            lines.append(f"{name}{i} = MatMul({x}, w{name}{i})")
            lines.append(f"{name}s{i} = Reshape({name}{i}, heads)")
            lines.append(f"{name}t{i} = Transpose{{perm=[0, 2, 1, 3]}}({name}s{i})")
        lines += [
            f"a{i} = Attention(qt{i}, kt{i}, vt{i})",
            f"m{i} = Transpose{{perm=[0, 2, 1, 3]}}(a{i})",
            f"f{i} = Reshape(m{i}, flat)",
            f"o{i} = MatMul(f{i}, wo{i})",
            f"r{i} = Add(o{i}, {x})",
            f"n{i} = LayerNormalization(r{i}, ones)",
            f"u{i} = MatMul(n{i}, wu{i})",
            f"g{i} = Gelu(u{i})",
            f"d{i} = MatMul(g{i}, wd{i})",
            f"e{i} = Add(d{i}, n{i})",
            f"x{i} = LayerNormalization(e{i}, ones)",
        ]
        x = f"x{i}"
    return graph(*lines, inputs={"x": "float[batch, sequence, 64]"}, outputs=[x], **constants)


def test_what_a_tap_was_shown_is_not_kept() -> None:
    lines = ["a = Exp(x)", *(f"{b} = Neg({a})" for a, b in zip("abcd", "bcde", strict=True))]
    module, memory = to_fx(graph(*lines, inputs={"x": "float[n]"}, outputs=["e"])), _Memory()
    fed = {"x": torch.ones(1000)}
    with memory:
        Interpreter(module).tensors(fed, taps=["a"], tap=lambda name, value: None)
    assert memory.peak == 2 * 4000  # what an op reads and what it makes


@pytest.mark.parametrize("streaming", [False, True], ids=["plain", "tapped"])
def test_no_value_outlives_its_last_use(streaming: bool) -> None:
    module = to_fx(_encoder(3))
    x = torch.randn(8, 64, 64, generator=torch.Generator().manual_seed(0))
    lives = _Lives(module)
    with torch.no_grad():
        lives.run(x)
    interpreter, memory, seen = Interpreter(module), _Memory(), 0

    def count(name: str, value: torch.Tensor) -> None:
        nonlocal seen
        seen += 1

    with memory:
        interpreter.run({"x": x}, taps=count if streaming else None)
    assert seen == (len(interpreter.values) if streaming else 0)
    assert lives.peak() <= memory.peak <= 1.2 * lives.peak()


class TestHolding:
    """What follows from weights alone is computed in the first run with taps and held."""

    def model(self) -> onnx_ir.Model:
        return graph(
            "d = DequantizeLinear{axis=1}(q, s)",
            "t = Transpose{perm=[1, 0]}(d)",
            "h = MatMul(x, t)",
            "y = Relu(h)",
            inputs={"x": "float[batch, 3]"},
            q=np.arange(12, dtype=np.int8).reshape(4, 3),
            s=np.array([1, 2, 3], np.float32),
        )

    def test_answers_and_taps_are_the_same_in_every_run(self) -> None:
        plain, holding = (Interpreter(to_fx(self.model()), hold=hold) for hold in (None, Held()))
        for batch in (2, 5, 1):
            feeds = {"x": np.ones((batch, 3), np.float32)}
            wanted, found = (each.run(feeds, taps=["h", "y"]) for each in (plain, holding))
            assert wanted.keys() == found.keys() == {"h", "y"}
            for name, array in wanted.items():
                np.testing.assert_array_equal(found[name], array)

    def test_weights_are_dequantized_once(self) -> None:
        interpreter = Interpreter(to_fx(self.model()), hold=Held())
        nodes = [node for node in interpreter.module.graph.nodes if node.op == "call_function"]
        (dequantize,) = (node for node in nodes if node.meta["onnx"].op == "DequantizeLinear")
        target, calls = dequantize.target, list[int]()

        def counted(*args: object, **kwargs: object) -> object:
            calls.append(1)
            return target(*args, **kwargs)

        dequantize.target = counted
        for _ in range(3):
            interpreter.run({"x": np.ones((2, 3), np.float32)}, taps=["h"])
        assert len(calls) == 1

    def test_a_value_that_is_watched_is_shown_in_every_run(self) -> None:
        interpreter = Interpreter(to_fx(self.model()), hold=Held())
        for _ in range(2):
            found = interpreter.run({"x": np.ones((2, 3), np.float32)}, taps=["d", "h"])
            assert found["d"].tolist() == (np.arange(12).reshape(4, 3) * [1, 2, 3]).tolist()

    def test_random_numbers_are_drawn_anew(self) -> None:
        drawn = graph(
            "r = RandomNormalLike(w)",
            "y = MatMul(x, r)",
            inputs={"x": "float[batch, 3]"},
            w=np.zeros((3, 3), np.float32),
        )
        interpreter = Interpreter(to_fx(drawn), hold=Held())
        feeds = {"x": np.ones((1, 3), np.float32)}
        first, second = (interpreter.run(feeds, taps=["y"])["y"] for _ in range(2))
        assert not np.array_equal(first, second)
