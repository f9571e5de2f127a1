"""What is added to the scores and filled into them, as the one mask that Attention adds.

    Where(c, s, f) + m      -->      s + (Where(c, 0, f) + m)

A fill takes a score's place where Attention can only add to it. f is the fill times what scales it later.

* Zeros behind the softmax wherever f was filled in: minus infinity says so.
* f <= LOW: f + s rounds to f, so that even a row whose keys are all hidden stays the mean of its values. Not in
  float16, which holds no such number.
* f <= HIDES: LOW in its place. A row that sees a key weighs those that it does not see with exp(f - max s) = 0 either
  way, and a row that sees none is even. For that nothing else may come near f, or be added behind it.
* f <= HIDES and a condition that leaves each query a key, as a causal one does: minus infinity.

A visible score itself is taken to be above f / 2, as data are.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ....ir.arrangement import Arrangement
from ...arrange import arranged
from ...base import Miss
from ...edit import Tape, is_op
from .bounds import is_open_or_shut, magnitude
from .operands import Split, mask
from .positions import leaves_a_key
from .scores import LOW, Bias, Scores

#: A fill that is no lower may be a score. -1e4 as bfloat16 holds it.
HIDES = -9984.0


@dataclass(frozen=True)
class Term:
    """A term of Attention's mask: the bias, and what brings it to the mask's axes.

    casts: whether it comes in another type than queries and keys. low: what is added where a score is filled.
    """

    bias: Bias
    plan: Arrangement
    casts: bool = False
    low: float | None = None


def terms_of(
    scores: Scores, zeroed: Collection[tuple[ir.Value, bool]], split: Split, kind: ir.DataType
) -> tuple[Term, ...] | Miss:
    """The terms of the mask in the order in which they are added and filled in.

    zeroed: the conditions that hide probabilities again behind the softmax. kind: the type of queries and keys.
    """
    again = [fill for fill in scores.biases if (fill.value, fill.hides) in zeroed]
    # rows without keys are zero then: what minus infinity says, if all fills say it
    for fill in scores.biases if again else ():
        if fill.low not in (None, -np.inf) and fill not in again:
            need = "zeros where any score is hidden, or minus infinity there"
            return Miss("guard", fill.value.name or "", need)
    terms: list[Term] = []
    for bias in scores.biases:
        found = _filled(bias, scores, again, kind) if bias.low is not None else _added(bias, scores, kind)
        if isinstance(found, Miss):
            return found
        plan = mask(found.bias, split)
        if isinstance(plan, Miss):
            return plan
        terms.append(replace(found, plan=plan))
    return tuple(terms)


def total(tape: Tape, terms: Sequence[Term], kind: ir.DataType) -> ir.Value | None:
    """The mask: what is filled in takes the place of all that was added before it."""
    found: ir.Value | None = None
    for term in terms:
        value = arranged(tape, term.plan)
        if term.low is None:
            value = tape("Cast", value, to=int(kind)) if term.casts else value
            factor = term.bias.factor
            value = value if factor == 1.0 else tape("Mul", value, _number(tape, factor, "factor", kind))
            found = value if found is None else tape("Add", found, value)
        else:
            low = _number(tape, term.low, "low", kind)
            kept = found if found is not None else _number(tape, 0.0, "zero", kind)
            found = tape("Where", value, *((low, kept) if term.bias.hides else (kept, low)))
    return found


def _added(bias: Bias, scores: Scores, kind: ir.DataType) -> Term | Miss:
    """A bias in the type of queries and keys. That of float32 scores may not fit into theirs."""
    casts = bias.value.dtype not in (kind, None)
    cast = bias.value.producer()
    if casts and is_op(cast, "Cast") and cast.inputs[0] is not None and cast.inputs[0].dtype is kind:
        bias, casts = replace(bias, value=cast.inputs[0]), False
    narrow = kind is ir.DataType.FLOAT16 and scores.precision is not None and abs(bias.factor) > 1.0
    if (casts or narrow) and not is_open_or_shut(bias.value):
        need = f"a bias in {kind.name.lower()}, or one of zero and minus infinity alone"
        return Miss("precision", f"{bias.value.name} in {_named(bias.value)}", need)
    return Term(bias, Arrangement(bias.value), casts)


def _filled(bias: Bias, scores: Scores, again: Sequence[Bias], kind: ir.DataType) -> Term | Miss:
    """A masked fill as something that is added."""
    assert bias.low is not None
    low = bias.low * bias.factor
    if not (bias.factor > 0.0 and low <= HIDES):
        return Miss("mask", f"{bias.low:g} times {bias.factor:g}", f"{HIDES:g} or less where scores are masked")
    if low == -np.inf:
        return Term(bias, Arrangement(bias.value), low=low)
    others = [other for other in scores.biases if other is not bias]
    # what is shut by minus infinity stays so beside any fill
    near = _near(low, [other for other in others if not is_open_or_shut(other.value)])
    if bias in again:
        if near is not None:
            return Miss("guard", near.value.name or "", f"a bias that is known to stay far above the fill, {low:g}")
        return Term(bias, Arrangement(bias.value), low=-np.inf)
    wide = kind is not ir.DataType.FLOAT16
    if wide and low <= LOW:
        return Term(bias, Arrangement(bias.value), low=low)
    fills = [other for other in others if other.low is not None]
    if not fills and _near(low, others) is None and leaves_a_key(bias.value, bias.hides):
        return Term(bias, Arrangement(bias.value), low=-np.inf)
    if not wide:
        need = "minus infinity, zeros behind the softmax or a condition that leaves each query a key: a row that sees"
        return Miss("mask", f"{low:g} in float16", f"{need} none would not stay even")
    behind = scores.biases[scores.biases.index(bias) + 1 :]
    mixed = [near] if near is not None else []
    mixed += [other for other in behind if other.low is None and not is_open_or_shut(other.value)]
    mixed += [other for other in fills if other.low != -np.inf and other.low != bias.low]
    if mixed:
        need = f"nothing beside it that tells hidden keys apart, or {LOW:g} or less: rows that see no key would change"
        return Miss("mask", f"a fill of {low:g} beside {mixed[0].value.name}", need)
    return Term(bias, Arrangement(bias.value), low=LOW)


def _near(low: float, others: Sequence[Bias]) -> Bias | None:
    """The bias that may bring another score as low as a fill; None where all together do not."""
    sum_, widest = 0.0, None
    for other in others:
        if other.low is not None:
            continue
        found = magnitude(other.value)
        if found is None:
            return other
        sum_, widest = sum_ + found * abs(other.factor), other
    return widest if sum_ > -low / 2 else None


def _number(tape: Tape, number: float, name: str, kind: ir.DataType) -> ir.Value:
    with np.errstate(over="ignore"):
        return tape.constant(np.asarray(number, dtype=kind.numpy()), name)


def _named(value: ir.Value) -> str:
    return "an unknown type" if value.dtype is None else value.dtype.name.lower()
