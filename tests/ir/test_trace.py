"""torch modules as models: names, dynamic dimensions, and the traps of tracing."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx_ir
import onnxruntime
import pytest
import torch
from tersor.ir import dimensions
from tersor.ir.errors import ModelError, OptionError, UnsupportedError
from tersor.ir.level import SEMANTIC_OPSET, Level, violations
from tersor.ir.load import load
from tersor.ir.trace import trace
from torch import Tensor, nn

X = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) / 24


class _Pair(NamedTuple):
    left: Tensor
    right: Tensor


class Tied(nn.Module):
    """Two layers with one weight, recurrent layers of any length, and results of every nesting."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.gru = nn.GRU(4, 5, batch_first=True)
        self.lstm = nn.LSTM(5, 3, num_layers=2, bidirectional=True, batch_first=True)

    def forward(
        self, x: Tensor, states: list[Tensor], *, scale: Tensor | None = None, double: bool = True
    ) -> dict[str, object]:
        hidden = self.second(self.first(x))
        layers, last = self.gru(hidden)
        return {
            "hidden": hidden,
            "x": hidden.relu(),
            "twice": hidden,
            "pair": _Pair(x + 1, states[0] + states[1]),
            "deep": [self.lstm(layers)[0], {"last": last}],
            "nothing": None,
            "scaled": x * scale if scale is not None and double else x,
        }


@pytest.fixture(scope="module")
def tied() -> tuple[Tied, onnx_ir.Model]:
    module = Tied().eval()
    model = load(
        module,
        args=(X[:, :1], [torch.ones(4), torch.ones(4)]),
        kwargs={"scale": torch.ones(4), "double": True},
        dynamic={"x": {0: "batch", -2: ("sequence", 1, 512)}},
    )
    return module, model


def _run(model: onnx_ir.Model, **feeds: Tensor) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(onnx_ir.to_proto(model).SerializeToString())
    found = session.run(None, {name: value.numpy() for name, value in feeds.items()})
    return dict(zip((value.name for value in session.get_outputs()), found, strict=True))


def _shapes(values: object) -> dict[str, str]:
    return {value.name: str(value.shape) for value in values}  # type: ignore[attr-defined]


# ---- works


def test_inputs_are_named_after_parameters_and_outputs_after_keys(tied: tuple[Tied, onnx_ir.Model]) -> None:
    graph = tied[1].graph
    assert _shapes(graph.inputs) == {
        "x": "[batch,sequence,4]",
        "states_0": "[4]",
        "states_1": "[4]",
        "scale": "[4]",
    }
    assert _shapes(graph.outputs) == {
        "hidden": "[batch,sequence,4]",
        "x_out": "[batch,sequence,4]",
        "twice": "[batch,sequence,4]",
        "pair_left": "[batch,sequence,4]",
        "pair_right": "[4]",
        "deep_0": "[batch,sequence,6]",
        "deep_1_last": "[1,batch,5]",
        "scaled": "[batch,sequence,4]",
    }


def test_the_model_is_at_the_imported_level_with_the_default_opset(tied: tuple[Tied, onnx_ir.Model]) -> None:
    assert violations(tied[1], Level.IMPORTED) == []
    assert tied[1].opset_imports[""] == SEMANTIC_OPSET


def test_ranges_are_stored(tied: tuple[Tied, onnx_ir.Model]) -> None:
    assert dimensions.ranges(tied[1]) == {"batch": (1, None), "sequence": (1, 512)}


def test_tied_weights_stay_one_and_keep_their_name(tied: tuple[Tied, onnx_ir.Model]) -> None:
    weights = [name for name, value in tied[1].graph.initializers.items() if str(value.shape) == "[4,4]"]
    assert [re.sub("first|second", "layer", name) for name in weights] == ["layer.weight.T"]


def test_nobody_learns_where_the_source_lay(tied: tuple[Tied, onnx_ir.Model]) -> None:
    assert Path(__file__).name not in str(onnx_ir.to_proto(tied[1]))


def test_recurrent_layers_stay_whole(tied: tuple[Tied, onnx_ir.Model]) -> None:
    ops = [node.op_type for node in tied[1].graph]
    assert (ops.count("GRU"), ops.count("LSTM"), ops.count("Loop")) == (1, 2, 0)


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 7), (1, 33)])
def test_holds_numerically_at_other_sizes(tied: tuple[Tied, onnx_ir.Model], batch: int, length: int) -> None:
    module, model = tied
    generator = torch.Generator().manual_seed(batch)
    x = torch.randn(batch, length, 4, generator=generator)
    states = [torch.randn(4, generator=generator) for _ in range(2)]
    scale = torch.randn(4, generator=generator)
    with torch.no_grad():
        wanted = module.double()(x.double(), [s.double() for s in states], scale=scale.double())
    module.float()
    found = _run(model, x=x, states_0=states[0], states_1=states[1], scale=scale)
    for name, value in (
        ("hidden", wanted["hidden"]),
        ("pair_right", wanted["pair"].right),
        ("deep_0", wanted["deep"][0]),
        ("deep_1_last", wanted["deep"][1]["last"]),
        ("scaled", wanted["scaled"]),
    ):
        # float32 against float64: a few hundred roundings of 2^-24 relative to the largest value
        assert np.abs(found[name] - value.numpy()).max() <= 300 * 2.0**-24 * max(1.0, float(value.abs().max()))


class Plain(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * 2, x.sum(-1)


def test_a_tuple_gives_numbered_outputs_at_an_older_opset() -> None:
    model = trace(Plain().eval(), X, opset=18)
    assert [value.name for value in model.graph.outputs] == ["output", "output_1"]
    assert model.opset_imports[""] == 18
    assert dimensions.ranges(model) == {}


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.ones(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table[: x.shape[1]]


def test_the_range_that_forward_needs_is_found_and_the_program_roundtrips(tmp_path: Path) -> None:
    model = load(Positions().eval(), args=(X,), dynamic={"x": {1: "length"}})
    assert dimensions.ranges(model) == {"length": (1, 16)}

    program = torch.export.export(
        Positions().eval(), (X,), dynamic_shapes={"x": {1: torch.export.Dim("any", min=2, max=9)}}
    )
    torch.export.save(program, tmp_path / "m.pt2")
    named = load(tmp_path / "m.pt2", dynamic={"x": {1: "length"}})
    unnamed = load(program)
    assert _shapes(named.graph.inputs) == {"x": "[2,length,4]"}
    assert _shapes(unnamed.graph.inputs) == {"x": "[2,x_1,4]"}
    assert dimensions.ranges(named) == {"length": (2, 9)}
    assert dimensions.ranges(unnamed) == {"x_1": (2, 9)}
    with pytest.raises(OptionError, match=r"x axis 0: the exported program has the shape .* no dynamic dimension"):
        load(program, dynamic={"x": {0: "batch"}})
    with pytest.raises(OptionError, match=r"input 'z', which the program has not: known: x"):
        load(program, dynamic={"z": {0: "batch"}})
    with pytest.raises(ModelError, match="takes no example inputs"):
        load(program, args=(X,))


def test_a_function_may_return_module_inputs_and_dynamic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tersor_traced_here.py").write_text(
        "import torch\n"
        "def make():\n"
        "    module = torch.fx.symbolic_trace(torch.nn.ReLU().eval())\n"
        "    return module, torch.ones(2, 3), {'input': {0: 'batch'}}\n"
    )
    monkeypatch.chdir(tmp_path)
    model = load("tersor_traced_here:make")
    assert _shapes(model.graph.inputs) == {"input": "[batch,3]"}
    assert [node.op_type for node in model.graph] == ["Relu"]


class Halves(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, x.shape[1] // 2, 2, 4) + 1.0


def test_a_multiple_may_be_asked_for() -> None:
    half = torch.export.Dim("half", min=1, max=9)
    model = load(Halves().eval(), args=(torch.ones(2, 4, 4),), dynamic={"x": {1: 2 * half}})
    assert _shapes(model.graph.inputs) == {"x": "[2,2*half,4]"}
    assert _shapes(model.graph.outputs) == {"output": "[2,half,2,4]"}
    assert dimensions.ranges(model) == {"2*half": (2, 18)}


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        print("tracing")
        warnings.warn("mind the gap", stacklevel=1)
        return x + 1


def test_only_the_users_own_output_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trace(Noisy().eval(), X)
    assert {str(warning.message) for warning in caught} == {"mind the gap"}
    shown = capfd.readouterr()
    assert (set(shown.out.split()), shown.err) == ({"tracing"}, "")


# ---- refuses


class InPlace(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x.add_(1)
        return x + y


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return x + self.count


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


class Fixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.ones(3, 4)


class Always(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5)


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x @ torch.ones(7, 7)


class Loose(nn.Module):
    def forward(self, x: Tensor, factor: object) -> Tensor:
        return x * factor  # type: ignore[operator]


def _half_training() -> nn.Module:
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1), nn.BatchNorm1d(3)).eval()
    module[1].train()
    return module


def _meta() -> nn.Module:
    with torch.device("meta"):
        return nn.Linear(4, 4).eval()


@pytest.mark.parametrize(
    ("make", "args", "message"),
    [
        (InPlace, (X, X), r"inputs 'x' and 'y' are one tensor object.* \(y\.clone\(\)\)"),
        (InPlace, (X.clone(), X), r"forward changes its input x in place.*x = x\.clone\(\)"),
        (Counting, (X,), "forward updates the buffer count, and a graph has no memory"),
        (Branching, (X,), r"depends on the values of a tensor at test_trace\.py:\d+ in forward: if x\.sum\(\) > 0:"),
        (Always, (X,), r"aten\.dropout\.default is traced as for training.*call \.eval\(\)"),
        (Failing, (X,), r"Failing cannot be traced at test_trace\.py:\d+ in forward: return x @ torch\.ones\(7, 7\)"),
        (_half_training, (X,), r"dropout and normalization layers in training mode: 1\).*call \.eval\(\) first"),
        (lambda: nn.Linear(4, 4).train(), (X,), r"\(training mode: the module\)"),
        (_meta, (X,), r"weights on the meta device \(weight, bias\)"),
        (Plain, (torch.ones(3, device="meta"),), "'x' is on the meta device"),
        (Plain, (), r"Plain\.forward.* cannot be called with the example inputs: missing a required argument: 'x'"),
        (Plain, (None,), "needs example inputs"),
        (Loose, (X, 3), "'factor' is a int, whose value would be fixed in the graph"),
        (Loose, (X, np.ones(4)), "'factor' is a ndarray"),
        (Loose, (X, [X.clone(), 2.0]), "'factor_1' is a float"),
    ],
)  # fmt: skip
def test_refuses_traps(make: Callable[[], nn.Module], args: tuple[object, ...], message: str) -> None:
    module = make()
    if make not in (_half_training, _meta) and isinstance(module, nn.Linear) is False:
        module.eval()
    with pytest.raises(ModelError, match=message) as caught:
        load(module, args=args)
    assert "\n" not in str(caught.value)


def test_views_of_one_storage_are_two_inputs() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    model = load(Sum().eval(), args=(X, X.view(X.shape)))
    assert [value.name for value in model.graph.inputs] == ["x", "y"]


@pytest.mark.parametrize(
    ("make", "dynamic", "message"),
    [
        (Fixed, {"x": {1: "length"}}, r"forward fixes 'length' to 3.*Leave that out of dynamic"),
        (Halves, {"x": {1: "length"}}, "forward needs length to be a multiple of 2"),
        (Positions, {"x": {1: ("length", 1, 99)}}, r"\(length 1\.\.99\): forward needs length to be up to 16"),
    ],
)
def test_says_which_sizes_forward_works_for(
    make: Callable[[], nn.Module], dynamic: dict[str, dict[int, object]], message: str
) -> None:
    x = torch.ones(2, 4, 4) if make is Halves else X
    with pytest.raises(ModelError, match=message) as caught:
        load(make().eval(), args=(x,), dynamic=dynamic)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


class Collecting(nn.Module):
    def forward(self, **inputs: Tensor) -> Tensor:
        return inputs["x"] + 1


def test_refuses_dynamic_inputs_that_forward_does_not_name() -> None:
    with pytest.raises(ModelError, match=r"Collecting\.forward takes x in \*\*inputs.*names its inputs"):
        load(Collecting().eval(), kwargs={"x": X}, dynamic={"x": {0: "batch"}})


def test_refuses_a_projecting_lstm() -> None:
    with pytest.raises(UnsupportedError, match="proj_size=3 and hidden_size=5"):
        load(nn.LSTM(4, 5, proj_size=3).eval(), args=(X,))


@pytest.mark.parametrize(
    ("dynamic", "message"),
    [
        ({"y": {0: "batch"}}, "dynamic names the input 'y', which forward has not: known: x"),
        ({"x": {3: "batch"}}, r"x axis 3: the example input has shape \[2, 3, 4\]"),
        ({"x": {0: "batch size"}}, "expected a name, a sum of names or"),
        ({"x": {0: ("batch", 1)}}, "expected a name, a sum of names or"),
        ({"x": {0: ("batch", 9, 2)}}, "is 9..2, the smallest size comes first"),
        ({"x": {0: ("batch", "1", "2")}}, "sizes are whole numbers"),
        ({"x": {0: "batch", 1: "batch"}}, "'batch' has size 2 at x axis 0 and 3 at x axis 1"),
        ({"x": {0: ("batch", 4, 8)}}, r"size 2 at x axis 0, where 'batch' is 4\.\.8"),
        ({"x": {0: ("n", 1, 8), 1: ("n", 1, 9)}}, r"'n' is 1\.\.9 here, 1\.\.8 before"),
    ],
)
def test_refuses_a_dynamic_that_does_not_fit(dynamic: dict[str, dict[int, object]], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        load(Plain().eval(), args=(X,), dynamic=dynamic)  # type: ignore[arg-type]


def test_refuses_a_translation_that_torch_does_not_have() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.eigvals(x @ x.mT).abs()

    with pytest.raises(UnsupportedError, match=r"no translation .*linalg_eig") as caught:
        load(Odd().eval(), args=(X,))
    assert "\n" not in str(caught.value)
