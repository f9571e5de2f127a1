from __future__ import annotations

import numpy as np
import onnx_ir
import pytest
import torch
from tersor.ir.errors import ModelError
from tersor.ir.fx import Interpreter, to_fx

HEADER = '<ir_version: 10, opset_import: ["" : 21, "own" : 1]>'
ROWS = [np.array([1.0, 2.0], np.float32), np.array([3.0], np.float32), np.array([4.0, 5.0, 6.0], np.float32)]


def interpreter(text: str) -> Interpreter:
    return Interpreter(to_fx(onnx_ir.from_onnx_text(f"{HEADER}\n{text}")))


def listed(value: object) -> list[object]:
    assert isinstance(value, list)
    return [item.tolist() for item in value]


def test_sequences_go_in_and_come_out() -> None:
    run = interpreter("""
    g (seq(float[?]) s, float[N] x, int64 at) => (seq(float[?]) front, seq(float[?]) fewer, float[?] one, int64 n) {
        front = SequenceInsert (s, x, at)
        fewer = SequenceErase (front)
        one = SequenceAt (s, at)
        n = SequenceLength (front)
    }
    """).run
    found = run({"s": ROWS, "x": np.array([9.0], np.float32), "at": np.array(-2)})
    assert listed(found["front"]) == [[1, 2], [9], [3], [4, 5, 6]]
    assert listed(found["fewer"]) == [[1, 2], [9], [3]]
    assert found["one"].tolist() == [3]
    assert found["n"] == 4


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("y = SequenceAt (s, at)", "position 3 is not in -3 to 2, of a sequence of 3"),
        ("t = SequenceErase (s, at)  y = ConcatFromSequence <axis = 0> (t)", "position 3 is not in -3 to 2"),
    ],
)
def test_positions_outside_are_refused(line: str, what: str) -> None:
    run = interpreter(f"g (seq(float[?]) s, int64 at) => (float[?] y) {{ {line} }}").run
    with pytest.raises(ModelError, match=what):
        run({"s": ROWS, "at": np.array(3)})


@pytest.mark.parametrize(
    ("call", "shapes"),
    [
        ("<axis = 1> (x)", [[2, 1, 3]] * 5),
        ("<axis = 1, keepdims = 0> (x)", [[2, 3]] * 5),
        ("<axis = -2, keepdims = 0> (x, two)", [[2, 2, 3], [2, 2, 3], [2, 1, 3]]),
        ("<axis = 1> (x, sizes)", [[2, 1, 3], [2, 0, 3], [2, 4, 3]]),
    ],
)
def test_split_and_concat_again(call: str, shapes: list[list[int]]) -> None:
    run = interpreter(f"""
    g (float[2, 5, 3] x) => (seq(float[?, ?, ?]) s) {{
        two = Constant <value_int = 2> ()
        sizes = Constant <value_ints = [1, 0, 4]> ()
        s = SplitToSequence {call}
    }}
    """).run
    x = np.arange(30, dtype=np.float32).reshape(2, 5, 3)
    parts = run({"x": x})["s"]
    assert isinstance(parts, list)
    assert [list(part.shape) for part in parts] == shapes
    join = np.concatenate if parts[0].ndim == 3 else np.stack
    np.testing.assert_array_equal(join(parts, axis=1), x)


def test_a_sequence_grows_in_a_loop_and_is_chosen_by_a_branch() -> None:
    run = interpreter("""
    g (int64 n, bool c) => (seq(float[?]) s, float[?] all) {
        yes = Constant <value = bool {1}> ()
        nothing = SequenceEmpty ()
        grown = Loop (n, yes, nothing) <
            body = b (int64 i, bool d, seq(float[?]) old) => (e, new) {
                f = Cast <to = 1> (i)
                axes = Constant <value_ints = [0]> ()
                row = Unsqueeze (f, axes)
                new = SequenceInsert (old, row)
                e = Identity (d)
            }
        >
        s = If (c) <
            then_branch = t () => (seq(float[?]) a) { a = Identity (grown) },
            else_branch = e () => (seq(float[?]) b) {
                z = Constant <value_floats = [7.0]> ()
                b = SequenceConstruct (z)
            }
        >
        all = ConcatFromSequence <axis = 0> (s)
    }
    """).run
    assert listed(run({"n": np.array(3), "c": np.array(True)})["s"]) == [[0], [1], [2]]
    assert run({"n": np.array(3), "c": np.array(False)})["all"].tolist() == [7]


MAP = """
g (seq(float[?]) s, seq(float[?]) t, float[1] x) => (seq(float[?]) sums, seq(int64[?]) sizes) {
    two = Constant <value_floats = [2.0]> ()
    sums, sizes = SequenceMap (s, t, x) <
        body = b (float[?] a, float[?] c, float[1] d) => (float[?] y, int64[?] n) {
            h = Add (a, c)
            k = Mul (h, two)
            y = Add (k, d)
            n = Shape (a)
        }
    >
}
"""


def test_map_goes_along_all_sequences_and_sees_what_is_around() -> None:
    found = interpreter(MAP).run({"s": ROWS, "t": ROWS, "x": np.array([0.5], np.float32)})
    assert listed(found["sums"]) == [[4.5, 8.5], [12.5], [16.5, 20.5, 24.5]]
    assert listed(found["sizes"]) == [[2], [1], [3]]


def test_map_over_nothing_and_over_unequal_sequences() -> None:
    run = interpreter(MAP).run
    x = np.zeros(1, np.float32)
    assert run({"s": [], "t": [], "x": x}) == {"sums": [], "sizes": []}
    with pytest.raises(ModelError, match="sequences of 3 and 2 elements"):
        run({"s": ROWS, "t": ROWS[:2], "x": x})


OPTIONAL = """
g (optional(float[?]) x) => (float[?] y, bool has) {
    has = OptionalHasElement (x)
    y = If (has) <
        then_branch = t () => (float[?] a) { a = OptionalGetElement (x) },
        else_branch = e () => (float[?] b) { b = Constant <value_floats = [-1.0]> () }
    >
}
"""


def test_optionals() -> None:
    run = interpreter(OPTIONAL).run
    assert run({"x": ROWS[0]})["y"].tolist() == [1, 2]
    found = run({"x": None})  # type: ignore[dict-item]
    assert (found["y"].tolist(), bool(found["has"])) == ([-1], False)


def test_an_empty_optional_has_no_element_to_get() -> None:
    run = interpreter("g (optional(float[?]) x) => (float[?] y) { y = OptionalGetElement (x) }").run
    with pytest.raises(ModelError, match="the optional is empty; ask OptionalHasElement first"):
        run({"x": None})  # type: ignore[dict-item]


def test_feeds_of_another_kind_are_refused() -> None:
    run = interpreter("g (seq(float[?]) s, float[1] x) => (float[?] y) { y = ConcatFromSequence <axis = 0> (s) }").run
    x = np.zeros(1, np.float32)
    with pytest.raises(ModelError, match="feed 's': the input is a sequence; expected a list of arrays, found ndarray"):
        run({"s": x, "x": x})
    with pytest.raises(ModelError, match="feed 'x': the input is a tensor; expected an array, found None"):
        run({"s": ROWS, "x": None})  # type: ignore[dict-item]


def test_taps_pass_over_sequences() -> None:
    seen: list[str] = []
    feeds = {"s": ROWS, "t": ROWS, "x": np.zeros(1, np.float32)}
    interpreter(MAP).run(feeds, taps=lambda name, _: seen.append(name))  # type: ignore[arg-type]
    assert "s" not in seen
    assert "sums" not in seen
    assert seen.count("k") == 3


def test_gradients_pass_through() -> None:
    run = interpreter("""
    g (float[2] x) => (float[?] y) {
        s = SplitToSequence (x)
        zero = Constant <value_int = 0> ()
        first = SequenceAt (s, zero)
        t = SequenceInsert (s, first)
        y = ConcatFromSequence <axis = 0> (t)
    }
    """)
    x = torch.ones(2, requires_grad=True)
    run.tensors({"x": x}, grad=True)["y"].sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2, 1]
