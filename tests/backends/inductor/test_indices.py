"""Indices and divisors that compiled code could not bear."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest
import tersor
import torch
from tersor.backends.base import Interface
from tersor.backends.inductor.backend import Inductor
from tersor.backends.inductor.divisors import check_divisors
from tersor.backends.inductor.indices import check_indices
from tersor.backends.inductor.rewrite import rewritten
from tersor.ir.fx import to_fx
from tersor.ir.fx.export import export
from tersor.ir.text import graph
from tersor.tests.backends.inductor.models import assert_close, needs_compiler, normal, reference

ATEN = torch.ops.aten
ROWS = 24


def exported(model: ir.Model) -> torch.fx.GraphModule:
    found = export(model, to_fx(model)).module(check_guards=False)
    assert isinstance(found, torch.fx.GraphModule)
    return found


def checks(module: torch.fx.GraphModule) -> int:
    parts = [part for part in module.modules() if isinstance(part, torch.fx.GraphModule)]
    return sum(len(part.graph.find_nodes(op="call_function", target=ATEN._assert_async.msg)) for part in parts)


def checked(model: ir.Model) -> torch.fx.GraphModule:
    module = exported(model)
    check_indices(module)
    module.recompile()
    return module


def control_flow(text: str) -> ir.Model:
    """A model of opset 17 with `table` [24, 4]."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    proto.graph.initializer.append(onnx.numpy_helper.from_array(normal(ROWS, 4), "table"))
    return ir.from_proto(proto)


BRANCH = """agraph (float[n, 4] x, int64[n] i, bool c) => (float[n, 4] y) {
  y = If (c) <then_branch = t () => (float[n, 4] a) { g = Gather(table, i)
a = Add(x, g) }, else_branch = e () => (float[n, 4] b) { b = Neg(x) }> }"""

BODY = """agraph (float[n, 4] x, int64[n] i, int64 count) => (float[n, 4] y) {
  y = Loop (count, , x) <body = b (int64 k, bool go, float[n, 4] s) => (bool on, float[n, 4] o) { on = Identity(go)
j = Add(i, k)
g = Gather(table, j)
o = Add(s, g) }> }"""


@pytest.mark.parametrize(
    "node",
    [
        "y = Gather(table, i)",
        "y = Gather{axis=1}(table, i)",
        "y = GatherElements(table, pairs)",
        "y = GatherND(table, pairs)",
        "y = ScatterElements(table, pairs, updates)",
        "y = ScatterElements{reduction=add}(table, pairs, updates)",
        "y = ScatterND(table, pairs, rows)",
        "a = ArgMax{axis=1, keepdims=0}(updates)\ny = Gather(table, a)",
    ],
)
def test_every_index_that_an_input_decides_is_checked(node: str) -> None:
    inputs = {"i": "int64[n]", "pairs": "int64[n, 2]", "updates": "float[n, 2]", "rows": "float[n]"}
    used = {name: kind for name, kind in inputs.items() if name in node}
    assert checks(checked(graph(*node.splitlines(), inputs=used, table=normal(ROWS, 4)))) >= 1


def test_an_index_that_a_size_decides_is_checked() -> None:
    model = graph(
        "n = Size(x)", "r = Range(zero, n, one)", "p = Gather(table, r)", "y = Add(x, p)",
        inputs={"x": "float[n]"}, table=normal(ROWS), zero=np.array(0), one=np.array(1),
    )  # fmt: skip
    module = checked(model)
    assert checks(module) == 1
    torch.testing.assert_close(module(torch.zeros(7)), to_fx(model)(torch.zeros(7)))
    with pytest.raises(RuntimeError, match=r"an index is outside of -24\.\.23"):
        module(torch.zeros(ROWS + 1))


def test_constant_indices_are_left_alone() -> None:
    assert checks(checked(graph("y = Gather(x, i)", inputs={"x": "float[n, 4]"}, i=np.array([0, 1])))) <= 1
    assert checks(checked(graph("y = Gather{axis=1}(x, i)", inputs={"x": "float[n, 4]"}, i=np.array([0, 1])))) == 0


def test_one_index_of_two_axes_is_inside_of_both() -> None:
    class Diagonal(torch.nn.Module):
        def forward(self, x: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
            return x[i, i]

    given = (torch.from_numpy(normal(8, 3)), torch.tensor([0, 2, -1]))
    module = torch.export.export(Diagonal(), given).module(check_guards=False)
    check_indices(module)
    module.recompile()
    torch.testing.assert_close(module(*given), Diagonal()(*given))
    (call,) = module.graph.find_nodes(op="call_function", target=ATEN.index.Tensor)
    rows, columns = call.args[1]
    assert rows is columns
    assert (rows.target, rows.args[1:], rows.args[0].args[1:]) == (ATEN.clamp.default, (-3, 2), (-8, 7))


@pytest.mark.parametrize("text", [BRANCH, BODY], ids=["If", "Loop"])
def test_bodies_of_control_flow_are_checked(text: str) -> None:
    assert checks(checked(control_flow(text))) >= 1


def test_a_change_of_a_body_alone_is_a_change() -> None:
    model = control_flow(BRANCH)
    asked: list[torch.fx.GraphModule] = []

    def again(made: torch.fx.GraphModule) -> torch.export.ExportedProgram:
        asked.append(made)
        made.meta["inputs"] = ("x", "i", "c")
        return export(model, made)

    rewritten(export(model, to_fx(model)), again, (), check=True)
    assert [checks(made) for made in asked] == [1]


@pytest.mark.parametrize("node", ["Div(a, b)", "Mod(a, b)", "Mod{fmod=1}(a, b)"])
def test_divisors_are_checked(node: str) -> None:
    model = graph(f"y = {node}", inputs={"a": "int64[n]", "b": "int64[n]"})
    module = exported(model)
    check_divisors(module)
    module.recompile()
    a, b = torch.tensor([7, -7, 7, -7]), torch.tensor([3, 3, -3, -3])
    torch.testing.assert_close(module(a, b), to_fx(model)(a, b))
    with pytest.raises(RuntimeError, match="a whole number is divided by 0"):
        module(a, b * 0)


def test_floats_are_divided_by_anything() -> None:
    module = exported(graph("y = Div(a, b)", "z = Mod{fmod=1}(a, b)", inputs=dict.fromkeys("ab", "float[n]")))
    check_divisors(module)
    assert checks(module) == 0


COMPILED = {
    "rows": graph("y = Gather(table, i)", inputs={"i": "int64[n]"}, table=normal(ROWS, 4)),
    "cells": graph("y = GatherND(table, i)", inputs={"i": "int64[n, 2]"}, table=normal(ROWS, 4)),
    "written": graph("y = ScatterElements(x, i, u)", inputs={"x": "float[5]", "i": "int64[n]", "u": "float[n]"}),
    "sizes": graph(
        "n = Size(x)", "r = Range(zero, n, one)", "p = Gather(table, r)", "y = Add(x, p)",
        inputs={"x": "float[n]"}, table=normal(ROWS), zero=np.array(0), one=np.array(1),
    ),
    "branch": control_flow(BRANCH),
    "body": control_flow(BODY),
    "divided": graph("y = Div(a, b)", inputs=dict.fromkeys("ab", "int64[n]")),
    "remainder": graph("y = Mod(a, b)", inputs=dict.fromkeys("ab", "int64[n]")),
}  # fmt: skip

MANY = 5000
YES = np.array(True)
GOOD = {
    "rows": {"i": np.array([0, 23, -1, -24])},
    "cells": {"i": np.array([[0, 3], [-24, -4], [-1, 0]])},
    "written": {"x": normal(5), "i": np.array([0, -5, 4]), "u": normal(3)},
    "sizes": {"x": normal(ROWS)},
    "branch": {"x": normal(3, 4), "i": np.array([0, 23, -24]), "c": YES},
    "body": {"x": normal(3, 4), "i": np.array([0, 20, -24]), "count": np.array(4)},
    "divided": {"a": np.arange(-9, 9), "b": np.full(18, -5)},
    "remainder": {"a": np.arange(-9, 9), "b": np.full(18, -5)},
}
BAD = {
    "rows": [{"i": np.full(MANY, 24)}, {"i": np.full(MANY, -25)}],
    "cells": [{"i": np.full((MANY, 2), 4)}, {"i": np.full((MANY, 2), -5)}],
    "written": [{"x": normal(5), "i": np.array([5]), "u": normal(1)}],
    "sizes": [{"x": normal(MANY)}],
    "branch": [{"x": normal(MANY, 4), "i": np.full(MANY, 24), "c": YES}],
    "body": [{"x": normal(MANY, 4), "i": np.full(MANY, 22), "count": np.array(9)}],
    "divided": [{"a": np.arange(MANY), "b": np.zeros(MANY, np.int64)}],
    "remainder": [{"a": np.arange(MANY), "b": np.zeros(MANY, np.int64)}],
}  # fmt: skip

CHILD = """
import sys
from pathlib import Path
import numpy as np, tersor
from tersor.backends.base import Interface
from tersor.backends.inductor.backend import Inductor
folder, *paths = sys.argv[1:]
session = Inductor(threads=2).open(Path(folder), Interface.of(tersor.load(folder + "/model.onnx")))
for path in paths:
    try:
        session.run(dict(np.load(path)))
    except tersor.ModelError as error:
        print(error)
"""


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("name", COMPILED)
def test_a_package_says_what_is_wrong_and_lives_on(name: str, tmp_path: Path) -> None:
    """In a process of its own, on two threads: an error in the midst of a parallel loop would end it."""
    model, backend = COMPILED[name], Inductor(threads=2)
    tersor.save(model, tmp_path / "model.onnx")
    backend.write(model, tmp_path)
    session = backend.open(tmp_path, Interface.of(model))
    assert_close(session.run(GOOD[name]), reference(model, GOOD[name]))
    paths = [str(tmp_path / f"{place}.npz") for place in range(len(BAD[name]))]
    for path, feeds in zip(paths, BAD[name], strict=True):
        np.savez(path, **feeds)
    command = [sys.executable, "-c", CHILD, str(tmp_path), *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    said = done.stdout.strip().splitlines()
    assert len(said) == len(paths)
    wrong = "a whole number is divided by 0" if name in ("divided", "remainder") else "an index is outside of"
    assert all(wrong in line for line in said)
