"""Recipes for values that are no tensors of numbers, and for tensors out of nothing: sequences, optionals, strings."""

from __future__ import annotations

import numpy as np
from onnx import helper, numpy_helper
from tersor.benchmarks._fuzz_graph import DTYPES, FLOATS, NO_TENSOR, Builder, Recipe, Unfit, Value, code_of, made

_TEXTS = ("", "a", "b c", "Ab", "über", "x,y,z", "a@b.c", "12", " pad ", "日本", "NaN", "1.5")


def _kept(g: Builder, op: str, inputs: list[Value | None], **attributes: object) -> Value:
    """A node whose output is a sequence or optional, to build on here."""
    g.node(op, inputs, hidden=op == "Optional", **attributes)  # type: ignore[arg-type]
    return Value(g.nodes[-1].output[0], NO_TENSOR, ())


def sequence(g: Builder) -> None:
    dtype = g.dtype([dtype for dtype in DTYPES if dtype.name != "bfloat16"])
    x = g.pick([dtype], least=1)
    how = g.choose(["construct", "empty", "split"])
    if how == "construct":
        same = [g.pick([dtype], shape=x.shape) for _ in range(g.integer(0, 2))]
        row, count = _kept(g, "SequenceConstruct", [x, *same]), 1 + len(same)
    elif how == "empty":
        row = _kept(g, "SequenceEmpty", [], dtype=code_of(dtype))
        row, count = _kept(g, "SequenceInsert", [row, x]), 1
    else:
        axis = g.integer(0, x.rank - 1)
        if x.shape[axis] < 1:
            raise Unfit
        part = [g.give(np.array(g.integer(1, x.shape[axis]), np.int64))] if g.flag() else []
        count = -(-x.shape[axis] // int(part[0].constant or 0)) if part and part[0].constant is not None else 1
        row = _kept(g, "SplitToSequence", [x, *part], axis=axis, **({} if part else {"keepdims": g.integer(0, 1)}))
    if g.flag():
        at = g.give(np.array(g.integer(-count, count), np.int64)) if g.flag() else None
        row, count = _kept(g, "SequenceInsert", [row, g.pick([dtype], shape=x.shape), *([at] if at else [])]), count + 1
    if count > 1 and g.flag():
        at = g.give(np.array(g.integer(-count, count - 1), np.int64)) if g.flag() else None
        row, count = _kept(g, "SequenceErase", [row, *([at] if at else [])]), count - 1
    if g.opset >= 17 and g.flag():
        row = _mapped(g, row, dtype)
    end = g.choose(["at", "length", "concat", "stack"])
    if end == "at":
        g.node("SequenceAt", [row, g.give(np.array(g.integer(-count, count - 1), np.int64))])
    elif end == "length":
        g.node("SequenceLength", [row])
    else:
        g.node("ConcatFromSequence", [row], axis=g.integer(0, x.rank - 1), new_axis=int(end == "stack"))


def _mapped(g: Builder, row: Value, dtype: np.dtype[np.generic]) -> Value:
    p = f"m{len(g.nodes)}_"
    kind = code_of(dtype)
    body = helper.make_graph(
        [helper.make_node(g.choose(["Identity", "Abs"]) if dtype.kind == "f" else "Identity", [f"{p}i"], [f"{p}o"])],
        p,
        [helper.make_tensor_value_info(f"{p}i", kind, None)],
        [helper.make_tensor_value_info(f"{p}o", kind, None)],
    )
    return _kept(g, "SequenceMap", [row], body=body)


def optional(g: Builder) -> None:
    x = g.pick([dtype for dtype in DTYPES if dtype.name != "bfloat16"])
    full = g.flag()
    if full:
        held = _kept(g, "Optional", [x])
    else:
        held = _kept(g, "Optional", [], type=helper.make_tensor_type_proto(code_of(x.dtype), None))
    g.node("OptionalHasElement", [held])
    if full:
        g.node("OptionalGetElement", [held])


def _strings(g: Builder, shape: tuple[int, ...]) -> Value:
    rng = np.random.default_rng(g.integer(0, 999))
    found = np.empty(shape, object)
    found.ravel()[:] = [_TEXTS[i] for i in rng.integers(0, len(_TEXTS), found.size)]
    return g.give(found, fixed=False)


def texts(g: Builder) -> None:
    op = g.choose(
        ["StringConcat", "StringNormalizer", "StringSplit", "RegexFullMatch", "Equal", "Cast", "Reshape", "Gather"]
    )
    x = _strings(g, (g.integer(1, 3),) if op == "StringNormalizer" else g.shape(most=2))
    if op in ("StringConcat", "Equal"):
        if op == "Equal" and g.opset < 19:
            raise Unfit
        g.node(op, [x, _strings(g, g.choose([x.shape, ()]))])
    elif op == "StringNormalizer":
        action = g.choose(["NONE", "LOWER", "UPPER"])
        flags = g.attributes(op, is_case_sensitive=g.integer(0, 1), stopwords=["a", "ab"])
        g.node(op, [x], case_change_action=action, **flags)
    elif op == "StringSplit":
        g.node(op, [x], 2, **g.attributes(op, maxsplit=g.integer(1, 3), delimiter=g.choose([",", " ", ""])))
    elif op == "RegexFullMatch":
        g.node(op, [x], pattern=g.choose(["[a-z]+", "a.*", r"\d+", "(a|b) c", ".*@.*"]))
    elif op == "Cast":
        number = g.pick([FLOATS[0], np.dtype("int64"), np.dtype("bool"), FLOATS[1], FLOATS[2]])
        g.node("Cast", [number], to=code_of(np.dtype(object)))
    elif op == "Reshape":
        g.node(op, [x, g.ints(-1 if 0 not in x.shape else 0)])
    else:
        if not x.rank or not x.shape[0]:
            raise Unfit
        g.node(op, [x, g.give(np.array([0, x.shape[0] - 1], np.int64))], axis=0)


def chance(g: Builder) -> None:
    """Of these only type and shape can be compared, but of Bernoulli, whose chances are 0 and 1."""
    op = g.choose(
        ["RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"]
    )
    kind = {"dtype": g.choose([1, 10, 11])}
    if op == "Bernoulli":
        chances = made(np.dtype("bool"), g.shape(), g.integer(0, 99), special=False)
        kinds = g.attributes(op, dtype=g.choose([1, 7, 9, 11]))
        g.node(op, [g.give(chances.astype(g.choose(FLOATS)))], **kinds)
    elif op == "Multinomial":
        x = g.give(np.log(np.full((g.integer(1, 2), g.integer(1, 3)), 0.5, np.float32)))
        g.node(op, [x], **g.attributes(op, sample_size=g.integer(1, 4), dtype=g.choose([6, 7])))
    elif op.endswith("Like"):
        g.node(op, [g.pick(FLOATS)], **g.attributes(op, **kind))
    else:
        g.node(op, [], shape=g.shape(), **g.attributes(op, **kind))


def constant(g: Builder) -> None:
    dtype = g.dtype(DTYPES)
    array = made(dtype, g.shape(), g.integer(0, 99), special=g.flag())
    options: list[dict[str, object]] = [{"value": numpy_helper.from_array(array)}]
    if g.opset >= 12:
        options += [{"value_float": 1.5}, {"value_int": -3}, {"value_ints": [2, 1]}, {"value_floats": [0.5, 2.0]}]
    g.node("Constant", [], **g.choose(options))


def bit_cast(g: Builder) -> None:
    x = g.pick([dtype for dtype in g.types("BitCast") if dtype.kind != "b"])
    others = [dtype for dtype in DTYPES if dtype.itemsize == x.dtype.itemsize and dtype.kind != "b"]
    g.node("BitCast", [x], to=code_of(g.choose(others)))


KINDS: tuple[Recipe, ...] = (sequence, sequence, sequence, optional, texts, texts, chance, constant, bit_cast)
