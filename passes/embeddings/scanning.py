"""Scores of all words as sums over what words are made of, a part at a time: no array grows with words and parts both.

    scores[v, n] = sum_i shares[i, v] products[i, codes[i, v], n]

    products[i] = books[i] @ columns[i]         or the same for all parts

A Scan; its steps read the codes [words] of one part, and make its products [entries, tokens]: those of all parts at
once would be larger than the scores where books have many entries.
Sums are those of float32 where scores are in half precision: there may be hundreds of parts.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..edit import Array, Ledger, Tape

_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def flat(tape: Tape, x: ir.Value, columns: int) -> ir.Value:
    """Activations [.., columns] as [columns, tokens]."""
    rows = tape("Reshape", x, tape.constant([-1, columns], "shape"))
    return tape("Transpose", rows, perm=[1, 0])


def unflat(tape: Tape, x: ir.Value, scores: ir.Value, words: int) -> ir.Value:
    """Scores [words, tokens] as [.., words], for activations [.., columns]."""
    rows = tape("Transpose", scores, perm=[1, 0])
    sizes = tape("Concat", tape("Shape", x, start=0, end=-1), tape.constant([words], "words"), axis=0)
    return tape("Reshape", rows, sizes)


def summed(
    tape: Tape,
    x: ir.Value,
    products: ir.Value,
    codes: ir.Value,
    words: int,
    name: str,
    *,
    dtype: ir.DataType,
    entries: int | None = None,
    shares: ir.Value | None = None,
    columns: ir.Value | None = None,
) -> ir.Value:
    """The sums, [words, tokens].

    x: the activation that is scored; the body of the Scan is named after it.
    products: [entries, tokens], of which all parts take; or with `columns`, [parts, width, tokens], the book of all,
    [entries, width], or where there is `entries` one of each, [parts, entries, width]. codes, shares: [parts, words];
    shares are one unless given. dtype: of products, columns and what is returned.
    """
    inside, own, name = Tape(), entries is not None, _apart(x, name)
    given, dtype = dtype, ir.DataType.FLOAT if dtype in _HALF else dtype
    if dtype is not given:
        products = tape("Cast", products, to=dtype)
        columns = None if columns is None else tape("Cast", columns, to=dtype)
    total = _value(f"{name}/sum", dtype, [words, "tokens"])
    across = "tokens" if columns is None else "width"
    held = _value(f"{name}/products", dtype, ["entries" if entries is None else entries, across])
    part = _value(f"{name}/columns", dtype, ["width", "tokens"])
    index = _value(f"{name}/codes", codes.dtype, [words])
    share = _value(f"{name}/shares", None if shares is None else shares.dtype, [words])
    made = held if columns is None else inside("MatMul", held, part)
    found = inside("Gather", made, inside("Cast", index, to=ir.DataType.INT32), axis=0)
    if shares is not None:
        as_read = share if shares.dtype is dtype else inside("Cast", share, to=dtype)
        found = inside("Mul", found, inside("Unsqueeze", as_read, inside.constant([1], "axes")))
    more = inside("Add", total, found)
    # what every step reads is handed on by each: not all runtimes let a step read from outside
    onward = [] if own else [inside("Identity", held)]
    for number, value in enumerate([*inside.constants, *(node.outputs[0] for node in inside.nodes)]):
        value.name = f"{name}/step{number}"
    for value, like in zip([more, *onward], [total, held], strict=False):
        value.type, value.shape = like.type, like.shape
    states = [total, *([] if own else [held])]
    optional = [(each, value) for each, value in ((shares, share), (columns, part)) if each is not None]
    steps = [*([held] if own else []), index, *(value for _, value in optional)]
    body = ir.Graph(
        [*states, *steps], [more, *onward], nodes=inside.nodes, initializers=inside.constants, name=f"{name}/step"
    )
    tokens = tape("Shape", products if columns is None else columns, start=-1)
    sizes = tape("Concat", tape.constant([words], "words"), tokens, axis=0)
    empty = tape("ConstantOfShape", sizes, value=ir.Tensor(np.zeros(1, dtype.numpy()), dtype=dtype))
    # states before what is scanned: sum, products where every step reads them all
    node = tape.node(
        "Scan",
        [empty, products, codes, *(each for each, _ in optional)],
        {"body": ir.AttrGraph("body", body), "num_scan_inputs": len(steps)},
        outputs=len(states),
    )
    return node.outputs[0] if dtype is given else tape("Cast", node.outputs[0], to=given)


def narrow(codes: Array) -> Array:
    """Codes in the narrowest unsigned integers that hold them."""
    most = int(codes.max(initial=0))
    return np.ascontiguousarray(codes, np.uint8 if most < 1 << 8 else np.uint16 if most < 1 << 16 else np.uint32)


def _value(name: str, dtype: ir.DataType | None, shape: list[int | str]) -> ir.Value:
    return ir.Value(name=name, type=None if dtype is None else ir.TensorType(dtype), shape=ir.Shape(shape))


def _apart(x: ir.Value, name: str) -> str:
    """A name that nothing in the graph has: bodies share the names of all graphs around them."""
    value: ir.Value | None = x
    while value is not None and (value.name is None or not isinstance(value.graph, ir.Graph)):
        node = value.producer()
        value = None if node is None else node.inputs[0]
    if value is None or not isinstance(value.graph, ir.Graph):
        return name
    return Ledger.of(value.graph).unique(f"{value.name}/{name}")
