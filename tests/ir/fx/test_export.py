"""FX modules through torch.export: control flow kept, sizes left open, and the program back as ONNX."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx_ir
import pytest
import tersor
import torch
from tersor.examples import babyllama
from tersor.ir.feeds import random_feeds
from tersor.ir.fx import Interpreter, runtime, to_fx
from tersor.ir.fx.export import ExportError, export
from tersor.ir.text import graph

HEADER = '<ir_version: 10, opset_import: ["" : 21]>'
N = torch.export.Dim("n")
Tensors = tuple[torch.Tensor, ...]


def parse(text: str) -> torch.fx.GraphModule:
    return to_fx(onnx_ir.from_onnx_text(f"{HEADER}\n{text}"))


def structures(program: torch.export.ExportedProgram) -> list[str]:
    """torch's control flow in the program's graph."""
    targets = (node.target for node in program.graph.nodes)
    return [target.name() for target in targets if isinstance(target, torch._ops.HigherOrderOperator)]


def exported(module: torch.fx.GraphModule, example: Tensors, dynamic: object) -> torch.export.ExportedProgram:
    with torch.no_grad():
        return torch.export.export(module, example, dynamic_shapes=dynamic, strict=False)


def hold(module: torch.fx.GraphModule, program: torch.export.ExportedProgram, calls: Sequence[Tensors]) -> None:
    """The program computes what the module does on all of these inputs."""
    for call in calls:
        wanted, found = module(*call), program.module()(*call)
        row = wanted if isinstance(wanted, tuple) else (wanted,)
        for a, b in zip(row, found if isinstance(found, tuple | list) else (found,), strict=True):
            assert a.shape == b.shape
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def flag(value: bool) -> torch.Tensor:
    return torch.tensor(value)


def test_if_on_data_is_a_cond_with_sizes_through_it() -> None:
    module = parse("""
    g (float[N, M] x, bool c) => (float[N, M] y, int64[2] s) {
        k = Constant <value_floats = [2.0]> ()
        h = Relu (x)
        y, s = If (c) <
            then_branch = t () => (ty, ts) { ty = Mul (h, k)  ts = Shape (ty) },
            else_branch = e () => (ey, es) { ey = Identity (h)  es = Shape (h) }
        >
    }
    """)
    program = exported(module, (torch.ones(3, 4), flag(True)), ({0: N}, None))
    assert structures(program) == ["cond"]
    hold(module, program, [(torch.randn(n, 4), flag(c)) for n in (1, 5) for c in (True, False)])


def test_if_inside_if() -> None:
    module = parse("""
    g (float[N] x, bool c, bool d) => (float[N] y) {
        y = If (c) <
            then_branch = t () => (r) {
                r = If (d) < then_branch = t2 () => (a) { a = Neg (x) }, else_branch = e2 () => (b) { b = Relu (x) } >
            },
            else_branch = e () => (s) { s = Identity (x) }
        >
    }
    """)
    program = exported(module, (torch.ones(3), flag(True), flag(True)), ({0: N}, None, None))
    hold(module, program, [(torch.randn(5), flag(c), flag(d)) for c in (True, False) for d in (True, False)])


def test_if_on_a_size_keeps_both_branches() -> None:
    module = parse("""
    g (float[N] x) => (float[N] y) {
        s = Shape (x)
        four = Constant <value_ints = [4]> ()
        c = Greater (s, four)
        y = If (c) < then_branch = t () => (r) { r = Neg (x) }, else_branch = e () => (q) { q = Identity (x) } >
    }
    """)
    program = exported(module, (torch.ones(3),), ({0: N},))
    assert structures(program) == ["cond"]
    hold(module, program, [(torch.randn(n),) for n in (1, 2, 4, 5, 9)])


def test_branches_of_different_rank_on_a_size_are_decided_by_the_example() -> None:
    model = onnx_ir.from_onnx_text(f"""{HEADER}
    g (float[N, 2] x) => (y) {{
        s = Shape <end = 1> (x)
        one = Constant <value_ints = [1]> ()
        zero = Constant <value_ints = [0]> ()
        c = Equal (s, one)
        y = If (c) <
            then_branch = t () => (r) {{ r = Squeeze (x, zero) }},
            else_branch = e () => (q) {{ q = Neg (x) }}
        >
    }}
    """)
    module = to_fx(model)
    program = exported(module, (torch.ones(3, 2),), ({0: N},))
    assert structures(program) == []
    hold(module, program, [(torch.randn(n, 2),) for n in (2, 7)])
    with pytest.raises(ExportError, match=r"refuses|fixes a path"):
        export(model, module)


COUNTED = """
g (float[N, 2] x, int64 n) => (float[2] last, float[?, 2] all) {
    yes = Constant <value = bool {1}> ()
    start = Constant <value_floats = [0.0, 0.0]> ()
    last, all = Loop (TRIPS, yes, start) <
        body = b (int64 i, bool c, float[2] a) => (d, out, float[2] row) {
            r = Gather (x, i)
            out = Add (a, r)
            row = Neg (out)
            d = Identity (c)
        }
    >
}
"""


def test_a_loop_counted_by_data_is_a_while_loop_that_fills_rows() -> None:
    module = parse(COUNTED.replace("TRIPS", "n"))
    program = exported(module, (torch.ones(9, 2), torch.tensor(4)), ({0: N}, None))
    assert structures(program) == ["while_loop"]
    hold(module, program, [(torch.randn(9, 2), torch.tensor(n)) for n in (6, 1, 0)])


def test_a_loop_counted_by_a_size_is_a_scan() -> None:
    text = COUNTED.replace("yes =", "s = Shape <end = 1> (x)\n zero = Constant <value_ints = [0]> ()\n yes =", 1)
    module = parse(text.replace("Loop (TRIPS", "Loop (k").replace("last, all =", "k = Squeeze (s, zero)\n last, all ="))
    program = exported(module, (torch.ones(3, 2), torch.tensor(0)), ({0: N}, None))
    assert structures(program) == ["scan"]
    hold(module, program, [(torch.randn(n, 2), torch.tensor(0)) for n in (1, 6, 30)])


def test_a_short_loop_of_known_length_is_unrolled() -> None:
    text = COUNTED.replace("yes =", "three = Constant <value_int = 3> ()\n yes =", 1).replace("TRIPS", "three")
    module = parse(text)
    program = exported(module, (torch.ones(3, 2), torch.tensor(0)), ({0: torch.export.Dim("n", min=3)}, None))
    assert structures(program) == []
    hold(module, program, [(torch.randn(n, 2), torch.tensor(0)) for n in (3, 6)])


CONDITIONED = """
g (float x, float limit) => (float last) {
    yes = Constant <value = bool {1}> ()
    last = Loop (, yes, x) <
        body = b (int64 i, bool c, float a) => (d, out) { out = Add (a, a)  d = Less (out, limit) }
    >
}
"""


def test_a_loop_that_ends_on_a_condition_is_a_while_loop() -> None:
    module = parse(CONDITIONED)
    program = exported(module, (torch.tensor(1.0), torch.tensor(50.0)), (None, None))
    assert structures(program) == ["while_loop"]
    hold(module, program, [(torch.tensor(1.0), torch.tensor(limit)) for limit in (9.0, 0.0, 1000.0)])


def test_rows_of_a_loop_that_ends_on_a_condition_cannot_be_exported() -> None:
    text = CONDITIONED.replace("(float last)", "(float last, float[?] all)").replace("last = Loop", "last, all = Loop")
    module = parse(text.replace("=> (d, out)", "=> (d, out, row)").replace("d = Less", "row = Neg (out)  d = Less"))
    assert module(torch.tensor(1.0), torch.tensor(3.0))[1].tolist() == [-2, -4]
    with pytest.raises(ValueError, match="scanned outputs that ends on a condition"):
        exported(module, (torch.tensor(1.0), torch.tensor(50.0)), (None, None))


def test_no_iteration_gives_empty_rows() -> None:
    found = parse(COUNTED.replace("TRIPS", "n"))(torch.ones(1, 2), torch.tensor(0))
    assert [tuple(value.shape) for value in found] == [(2,), (0, 2)]


def test_scan_of_open_length_stays_a_scan() -> None:
    module = parse("""
    g (float[2] s, float[2, N] x) => (float[2] last, float[N, 2] sums) {
        last, sums = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_input_directions = [1],
            scan_output_directions = [1],
            body = b (float[2] a, float[2] c) => (out, row) { out = Add (a, c)  row = Identity (out) }
        > (s, x)
    }
    """)
    program = exported(module, (torch.ones(2), torch.ones(2, 3)), (None, {1: N}))
    assert structures(program) == ["scan"]
    hold(module, program, [(torch.ones(2), torch.randn(2, n)) for n in (1, 5, 40)])


@pytest.mark.parametrize(("name", "cond"), [("silero_vad_16k_op15", []), ("silero_vad_op18_ifless", ["cond"])])
def test_silero_exports_with_open_batch_and_sequence(data_dir: Path, name: str, cond: list[str]) -> None:
    model = tersor.load(data_dir / "models" / "silero_vad" / f"{name}.onnx")
    module = to_fx(model)
    program = export(model, module, complete=False)  # the sizes of one window, which the model is for
    assert structures(program) == cond
    feeds = random_feeds(model, {"batch": 2, "sequence": 576})
    hold(module, program, [tuple(torch.from_numpy(np.asarray(feeds[key])) for key in module.meta["inputs"])])


def fit(model: onnx_ir.Model) -> torch.export.ExportedProgram:
    """The program of a model whose FX form is fit for export: shape arithmetic stays off tensors, parameters have
    their initializers' names, every dynamic dimension is open from the smallest size on, and no value is asserted.

    `export` itself refuses a dimension that has got an upper bound which the model has not.
    """
    module = to_fx(model)
    calls = Counter(node.target for node in module.graph.nodes if node.op == "call_function")
    assert calls[runtime.as_tensor] == calls[runtime.to_ints] == 0
    floats = {name for name, value in model.graph.initializers.items() if value.dtype is onnx_ir.DataType.FLOAT}
    assert {name for name, _ in module.named_parameters()} == floats
    program = export(model, module)
    entries = {node.name: node.meta["val"].shape for node in program.graph.nodes if node.op == "placeholder"}
    for value in model.graph.inputs:
        for dim, size in zip(value.shape or (), entries[str(value.name)], strict=True):
            assert isinstance(dim, int) or int(program.range_constraints[size.node.expr].lower) <= 2
    assert not any("_assert_scalar" in str(node.target) for node in program.graph.nodes)
    return program


def kept(model: onnx_ir.Model, again: onnx_ir.Model, *ops: str) -> None:
    """As many of these ops, the same weights under the same names, the same outputs."""
    wanted, found = (Counter(node.op_type for node in each.graph) for each in (model, again))
    assert {op: found[op] for op in ops} == {op: wanted[op] for op in ops}
    weights = {name for name, value in model.graph.initializers.items() if len(value.shape or ()) == 2}
    assert weights <= set(again.graph.initializers)
    feeds = random_feeds(model)
    a, b = (next(iter(Interpreter(to_fx(each)).run(feeds).values())) for each in (model, again))
    assert np.linalg.norm(a - b) <= 1e-6 * np.linalg.norm(a)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 23])
def test_minilm_is_fit_for_export_and_its_program_comes_back(minilm_onnx: Callable[[int], Path], opset: int) -> None:
    model = tersor.load(minilm_onnx(opset))
    again = tersor.load(fit(model))
    kept(model, again, "LayerNormalization", "Gather", "MatMul", *(("Attention", "Gelu") if opset == 23 else ()))


@pytest.mark.slow
def test_babyllama_is_fit_for_export_and_its_program_comes_back(data_dir: Path) -> None:
    source = babyllama.source()
    model = tersor.load(source.module, args=source.args, dynamic=source.dynamic)
    kept(model, tersor.load(fit(model)), "Attention", "RMSNormalization", "Gather")


def f32(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


WEIGHTS = {"g": f32(8), "w": f32(8, 8)}
WHOLE = {
    "y = LayerNormalization(x, g)": "LayerNormalization",
    "y = RMSNormalization(x, g)": "RMSNormalization",
    "y = Gelu(x)": "Gelu",
    "y = Gelu{approximate=tanh}(x)": "Gelu",
    "y = Attention{is_causal=1, kv_num_heads=2, q_num_heads=2}(x, x, x)": "Attention",
    "y = MatMul(x, w)": "MatMul",
    "y = Softmax(x)": "Softmax",
    "y = Gather(w, i)": "Gather",
}


@pytest.mark.parametrize("line", WHOLE)
def test_a_program_of_ours_comes_back_with_the_op_whole(line: str) -> None:
    inputs = {"i": "int64[b, s]"} if "i)" in line else {"x": "float[b, s, 8]"}
    model = graph(
        line,
        inputs=inputs,
        **{name: value for name, value in WEIGHTS.items() if f", {name})" in line or f"({name}, " in line},
    )
    again = tersor.load(export(model, to_fx(model)))
    assert [node.op_type for node in again.graph].count(WHOLE[line]) == 1
    assert not {"GatherND", "Erf", "Tanh", "Sqrt", "Exp"} & {node.op_type for node in again.graph}
    feeds = random_feeds(model)
    a, b = (next(iter(Interpreter(to_fx(each)).run(feeds).values())) for each in (model, again))
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("line", "sizes"),
    [
        ("y = Conv{strides=[16]}(x, w)", [80, 96, 300]),
        ("y = MaxPool{kernel_shape=[3]}(x)", [4, 5, 300]),
        ("y = MaxPool{kernel_shape=[3], pads=[1, 1]}(x)", [2, 3, 300]),
    ],
)
def test_windows_along_an_open_axis_take_every_length(line: str, sizes: list[int]) -> None:
    weights = {"w": f32(4, 1, 64)} if "w)" in line else {}
    model = graph(line, inputs={"x": "float[b, 1, n]"}, **weights)
    module = to_fx(model)
    program = export(model, module, complete=False).module()
    for size in sizes:
        x = torch.randn(2, 1, size)
        torch.testing.assert_close(program(x), module(x))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("y = MaxPool{kernel_shape=[3]}(x)", "needs axis 2 of input 'x' to be 4 or more"),
        ("y = Conv{strides=[16]}(x, w)", "torch.export refuses {'b': 3, 'n': "),
    ],
)
def test_the_least_sizes_are_given_up_only_where_asked(line: str, message: str) -> None:
    weights = {"w": f32(4, 1, 64)} if "w)" in line else {}
    model = graph(line, inputs={"x": "float[b, 1, n]"}, **weights)
    with pytest.raises(ExportError, match=message):
        export(model, to_fx(model))
