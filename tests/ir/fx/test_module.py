"""A module of `to_fx` goes through pickle and torch.save whole: values, notes, edits."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir
import pytest
import tersor
import torch
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.text import graph, lines

LAYER = graph(
    "h = MatMul(x, fc.weight)",
    "i = Add(h, fc.bias)",
    "s = Shape(i)",
    "n = Gather(s, [0])",
    "c = Concat{axis=0}(n, [-1])",
    "y = Reshape(i, c)",
    inputs={"x": "float[batch, 3]"},
    **{"fc.weight": np.ones((3, 3), np.float32), "fc.bias": np.ones(3, np.float32)},
)
CONTROL = onnx_ir.from_onnx_text(
    """
    <ir_version: 10, opset_import: ["" : 21]>
    g (float[N] x, bool c, uint32[K] u, string[L] w) => (float[N] y, uint32[K] v, string[R] q) {
        n = Constant <value_int = 3> ()
        t = Constant <value = bool {1}> ()
        row = Constant <value_ints = [-1]> ()
        v = Add (u, u)
        q = Reshape (w, row)
        y = Loop (n, t, x) <
            body = b (int64 i, bool k, float[N] a) => (d, o) {
                d = Identity (k)
                z = If (c) <
                    then_branch = yes () => (p) { f = Cast <to = 1> (i)  p = Add (a, f) },
                    else_branch = no () => (m) { m = Neg (a) }
                >
                o = Add (z, x)
            }
        >
    }
    """
)
FEEDS = {
    "x": np.arange(3, dtype=np.float32),
    "c": np.array(True),
    "u": np.ones(2, np.uint32),
    "w": np.array([["a"], ["b"]], object),
}


def _pickled(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    found = pickle.loads(pickle.dumps(module))
    assert isinstance(found, torch.fx.GraphModule)
    return found


def _saved(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    found = torch.load(buffer, weights_only=False)
    assert isinstance(found, torch.fx.GraphModule)
    return found


@pytest.mark.parametrize("through", [_pickled, _saved, copy.deepcopy])
def test_values_taps_and_the_model_come_back(through: Callable[[torch.fx.GraphModule], torch.fx.GraphModule]) -> None:
    module = to_fx(CONTROL)
    again = through(module)
    wanted, found = (Interpreter(each).run(FEEDS, taps=["f", "o"]) for each in (module, again))
    assert found.keys() == wanted.keys() == {"f", "o", "y", "v", "q"}
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)
    assert lines(tersor.load(again)) == lines(tersor.load(module))
    assert [node.meta for node in again.graph.nodes] == [node.meta for node in module.graph.nodes]


def test_weights_and_edits_are_those_of_now() -> None:
    module = to_fx(LAYER, copy=True)
    with torch.no_grad():
        module.get_parameter("fc.weight").mul_(2)
    node = next(node for node in module.graph.nodes if node.meta.get("onnx_name") == "i")
    node.target = torch.ops.aten.add.Tensor
    module.recompile()
    again = _pickled(module)
    assert [type(p) for p in again.parameters()] == [torch.nn.Parameter] * 2
    assert again(torch.ones(2, 3)).tolist() == [[7] * 3] * 2
    assert {node.target for node in again.graph.nodes} >= {torch.ops.aten.add.Tensor}


def test_a_copy_s_program_is_the_copy() -> None:
    """What torch.export takes along is the model of the module that is exported, not of the one it was copied from."""
    for through in (copy.deepcopy, _pickled):
        module = through(to_fx(LAYER, copy=True))
        with torch.no_grad():
            module.get_parameter("fc.weight").mul_(2)
        program = torch.export.export(module, (torch.ones(2, 3),), dynamic_shapes={"x": {0: torch.export.Dim("n")}})
        model = tersor.load(program)
        assert [node.op_type for node in model.graph] == [node.op_type for node in LAYER.graph]
        weight = model.graph.initializers["fc.weight"].const_value
        assert weight is not None
        assert np.all(weight.numpy() == 2)


def test_another_process_reads_the_file(tmp_path: Path) -> None:
    torch.save(to_fx(CONTROL), tmp_path / "module.pt")
    code = "import sys, torch; print(len(torch.load(sys.argv[1], weights_only=False).graph.nodes))"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "module.pt"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == len(to_fx(CONTROL).graph.nodes)


@pytest.mark.parametrize("name", ["meta", "graph.weight", "_code", "class", "layer.class.weight", "training", "a..b"])
def test_weights_may_have_names_that_modules_or_python_use(name: str) -> None:
    module = to_fx(graph("y = Add(x, w)", w=np.ones(3, np.float32), inputs={"x": "float[3]"}))
    model = tersor.load(module)
    model.graph.initializers["w"].name = name
    module = to_fx(model)
    for each in (module, _pickled(module), copy.deepcopy(module)):
        assert each(torch.ones(3)).tolist() == [2, 2, 2]
        assert list(tersor.load(each).graph.initializers) == [name]


@pytest.mark.parametrize("name", ["self", "torch", "inf", "lambda", "in.put"])
def test_inputs_may_have_names_that_the_code_of_a_module_uses(name: str) -> None:
    model = graph("r = Relu(x)", "y = Clip(r, 0.0, most)", inputs={"x": "float[3]"}, most=np.float32(np.inf))
    model.graph.inputs[0].name = name
    module = to_fx(model)
    for each in (module, _pickled(module)):
        assert Interpreter(each).run({name: np.arange(3, dtype=np.float32)})["y"].tolist() == [0, 1, 2]
        assert tersor.load(each).graph.inputs[0].name == name
