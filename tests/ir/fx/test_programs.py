"""Programs made from modules of ours are the model again, saved or not; edited ones are what they were edited to."""

from __future__ import annotations

import base64
import io
import zlib
from pathlib import Path

import numpy as np
import pytest
import tersor
import torch
from tersor.ir.dimensions import ranges, set_ranges
from tersor.ir.errors import OptionError
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.fx.export import export
from tersor.ir.fx.inverse.note import KEY, digest, draft, note, read
from tersor.ir.fx.kernels.bits import planes
from tersor.ir.fx.kernels.linear import fuse_linears
from tersor.ir.text import graph, lines

LAYER = graph(
    "h = MatMul(x, fc.weight)",
    "i = Add(h, fc.bias)",
    "y = Gelu(i)",
    inputs={"x": "float[batch, 3]"},
    **{"fc.weight": np.eye(3, dtype=np.float32), "fc.bias": np.ones(3, np.float32)},
)
set_ranges(LAYER, {"batch": (2, 64)})


def saved(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    return torch.export.load(buffer)


@pytest.fixture
def program() -> torch.export.ExportedProgram:
    return export(LAYER, to_fx(LAYER, copy=True))


def test_a_saved_program_is_the_model_with_the_weights_of_now(program: torch.export.ExportedProgram) -> None:
    again = saved(program)
    with torch.no_grad():
        again.state_dict["fc.weight"].mul_(3)
    model = tersor.load(again)
    assert lines(model) == lines(LAYER)
    assert ranges(model) == {"batch": (2, 64)}
    weight = model.graph.initializers["fc.weight"].const_value
    assert weight is not None
    np.testing.assert_array_equal(weight.numpy(), 3 * np.eye(3))


def test_an_edited_program_is_traced(program: torch.export.ExportedProgram) -> None:
    before = digest(program)
    (node,) = (node for node in program.graph.nodes if "gelu" in str(node.target))
    node.target, node.kwargs = torch.ops.aten.tanh.default, {}
    program.graph_module.recompile()
    assert digest(program) != before
    for each in (program, saved(program)):
        assert [node.op_type for node in tersor.load(each).graph][-1] == "Tanh"


@pytest.mark.parametrize(
    "damage",
    [
        lambda noted: noted.pop("model"),
        lambda noted: noted.update(model="not base 85 \x00"),
        lambda noted: noted.update(model=base64.b85encode(b"not zlib").decode()),
        lambda noted: noted.update(model=base64.b85encode(zlib.compress(b"\xff\xff\xff")).decode()),
        lambda noted: noted.update(weights={}),
        lambda noted: noted.update(weights={"fc.weight": ["fc.bias"], "fc.bias": ["fc.bias"]}),
        *(
            lambda noted, step=step: noted.update(weights={"fc.weight": ["fc.weight", step], "fc.bias": ["fc.bias"]})
            for step in ("", "turned", "unpack 3", "unpack 9 3 1", "unpack 3 99 1", "planes 2", "planes 999999999")
        ),
    ],
)
def test_a_damaged_note_is_no_note(program: torch.export.ExportedProgram, damage: object) -> None:
    assert callable(damage)
    damage(program.graph_module.meta["custom"][KEY])
    assert read(program) is None
    model = tersor.load(program)
    assert Interpreter(to_fx(model)).run({"x": np.zeros((2, 3), np.float32)})[str(model.graph.outputs[0].name)].shape


@pytest.mark.parametrize(
    ("given", "way"),
    [
        (lambda codes: codes, ["made", "planes 2"]),
        (lambda codes: 3 - codes, None),
        (lambda codes: planes(codes, 2), ["made"]),
        (lambda codes: planes(codes, 2)[:1], None),
    ],
    ids=["codes", "other codes", "the weight itself", "a part of it"],
)
def test_a_weight_that_was_packed_is_noted_only_where_it_comes_back(given: object, way: list[str] | None) -> None:
    codes = torch.from_numpy(np.random.default_rng(0).integers(0, 4, 1 << 16, dtype=np.uint8))
    source = graph("c = Cast{to=1}(w)", "y = MatMul(x, c)", inputs={"x": "float[n, 2]"}, w=planes(codes, 2).numpy())
    module = to_fx(source)
    before = draft(module)
    del module.w
    assert callable(given)
    module.register_buffer("made", given(codes))
    module.meta["made"] = {"made": "w"}
    noted = note(module, before)
    assert (noted if noted is None else noted["weights"]) == (way if way is None else {"w": way})


def test_other_modules_are_not_noted() -> None:
    assert note(torch.nn.Linear(2, 2)) is None
    assert note(torch.fx.symbolic_trace(torch.nn.Linear(2, 2))) is None
    plain = torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),))
    assert read(plain) is None


def test_dimensions_of_a_program_get_names(program: torch.export.ExportedProgram, tmp_path: Path) -> None:
    torch.export.save(program, tmp_path / "p.pt2")
    for source in (program, tmp_path / "p.pt2"):
        model = tersor.load(source, dynamic={"x": {0: "n"}})
        assert [str(value.shape) for value in (*model.graph.inputs, *model.graph.outputs)] == ["[n,3]"] * 2
        assert ranges(model) == {"n": (2, 64)}


@pytest.mark.parametrize(
    ("dynamic", "message"),
    [
        ({"z": {0: "n"}}, "names the input 'z', which the program has not"),
        ({"x": {2: "n"}}, "name only those that it was exported with"),
        ({"x": {0: "n"}, "w": {0: "m"}}, "this is the dimension that 'n' is"),
        ({"x": {0: "k"}}, "two dimensions of the program would be called 'k'"),
    ],
)
def test_names_that_do_not_fit_a_program_are_refused(dynamic: dict[str, dict[int, str]], message: str) -> None:
    model = graph("y = Mul(x, w)", inputs={"x": "float[b, k]", "w": "float[b, 1]"})
    with pytest.raises(OptionError, match=message):
        tersor.load(export(model, to_fx(model)), dynamic=dynamic)  # type: ignore[arg-type]


def test_fused_linear_layers_are_the_ops_that_they_were_fused_from() -> None:
    model = graph(
        "h = MatMul(x, w)",
        "i = Add(h, b)",
        "j = Gemm{transB=1}(i, w, b)",
        "k = MatMul(j, v)",
        "y = Add(b, k)",
        inputs={"x": "float[n, 3]"},
        w=np.arange(9, dtype=np.float32).reshape(3, 3),
        v=np.eye(3, dtype=np.float32),
        b=np.ones(3, np.float32),
    )
    module = to_fx(model, copy=True)
    assert fuse_linears(module) == 3
    again = tersor.load(module)
    assert [node.op_type for node in again.graph] == ["MatMul", "Add", "Gemm", "MatMul", "Add"]
    assert set(again.graph.initializers) == {"w", "v", "b"}
    feeds = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}
    wanted, found = (Interpreter(to_fx(each)).run(feeds)["y"] for each in (model, again))
    np.testing.assert_array_equal(found, wanted)


def test_a_linear_layer_that_a_user_put_in_is_a_product() -> None:
    module = to_fx(graph("y = Relu(x)", inputs={"x": "float[n, 3]"}))
    module.own = torch.nn.Parameter(torch.arange(12.0).reshape(4, 3))
    (node,) = (node for node in module.graph.nodes if node.meta.get("onnx_name") == "y")
    with module.graph.inserting_before(node):
        weight = module.graph.get_attr("own")
        made = module.graph.call_function(torch.nn.functional.linear, (node.args[0], weight))
    node.args = (made,)
    module.recompile()
    again = tersor.load(module)
    assert [node.op_type for node in again.graph] == ["MatMul", "Relu"]
    x = torch.arange(6.0).reshape(2, 3)
    np.testing.assert_allclose(Interpreter(to_fx(again)).run({"x": x})["y"], module(x).detach())
