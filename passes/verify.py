"""Hold what passes did to what they promised.

An exact stretch of a model that rounds at run time is held to its promise value by value: a sum reordered in the last
bit can move an activation across a rounding boundary, and the layers behind amplify that as they would any other int8
step. There every value that both graphs have is computed from the reference's own inputs, so that what is measured is
the rewrite, not the rounding. For the same reason models of 16-bit floats are compared in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import onnx_ir as ir

from ..ir.compare import TOLERANCE, Comparison, compare, compare_locally
from ..ir.errors import ContractError, PassError, TersorError
from ..ir.feeds import Feeds
from ..ir.level import Level, Signature, violations
from ..ir.runner import runner
from ..ir.text import excerpt
from ..ir.widened import coarsest, widened, widened_feeds
from .base import Contract, Exact, Lossy, Pass
from .pipeline import title

#: Ops that round what a run computes.
_ROUNDING = frozenset(
    {
        "DynamicQuantizeGRU",
        "DynamicQuantizeLinear",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeMatMul",
        "QuantizeLinear",
        "Round",
        "Floor",
        "Ceil",
    }
)


def judge(
    before: ir.Model, after: ir.Model, stretch: Sequence[Pass], feeds: Sequence[Feeds], signature: Signature
) -> float | TersorError:
    """The loss of a stretch of passes in its contract's metric, or what is wrong with it."""
    changing = any(step.changes_signature for step in stretch)
    contract = max((step.contract for step in stretch), key=allowed)
    found = violations(after, stretch[-1].level, signature=None if changing else signature)
    faults = [sentence for sentence in found if sentence not in violations(before, Level.IMPORTED)] if found else []
    if faults:
        return PassError(f"{_subject(stretch)} broke the graph: {'; '.join(faults[:5])}")
    reference = _with_outputs_of(before, after) if changing else before
    limit, coarse = allowed(contract), coarsest(before) if isinstance(contract, Exact) else 0.0
    if coarse:
        limit = max(limit, coarse)
        reference, after, feeds = widened(reference), widened(after), [widened_feeds(each) for each in feeds]
    try:
        if isinstance(contract, Exact) and _rounds(before):
            comparison = compare_locally(reference, after, feeds[0])
        else:
            comparison = compare(reference, after, feeds)
    except Exception as error:  # whatever a runtime raises on a graph that it cannot run
        _rehearse(reference, feeds)
        return _caused(PassError(f"{_subject(stretch)} left a graph that does not run: {error}"), error)
    loss = worst_loss(contract, comparison)
    if loss <= limit:
        return loss
    measured = f"measured {loss:.3g} on {comparison.worst.name}"
    return ContractError(f"{_subject(stretch)} promised {contract}, {measured}", loss=loss)


def located(
    error: TersorError, good: ir.Model, bad: ir.Model, feeds: Sequence[Feeds], tolerance: float = TOLERANCE
) -> TersorError:
    """The error with the first value that diverged by more than `tolerance`, and the graph around it as a note."""
    if not isinstance(error, ContractError):
        return error
    if coarsest(good):
        good, bad, feeds = widened(good), widened(bad), [widened_feeds(each) for each in feeds]
    first = compare(good, bad, feeds, locate=True, tolerance=tolerance).first_diverging
    if first is None:
        return error
    better = ContractError(f"{error}; first diverging value: {first}", loss=error.loss)
    node = next((node for node in bad.graph.all_nodes() if any(out.name == first.name for out in node.outputs)), None)
    if node is not None:
        better.add_note(excerpt(node))
    return better


def worst_loss(contract: Contract, comparison: Comparison) -> float:
    """The error of a comparison in the contract's own metric; the worst output counts."""
    if isinstance(contract, Lossy) and contract.metric == "cosine":
        losses = (inf if output.relative_l2 == inf else 1.0 - output.cosine for output in comparison.outputs)
        return max(losses, default=0.0)
    return comparison.relative_l2


def allowed(contract: Contract) -> float:
    """The largest loss that the contract allows."""
    return contract.budget if isinstance(contract, Lossy) else contract.tolerance


def _rounds(model: ir.Model) -> bool:
    return any(node.op_type in _ROUNDING for node in model.graph.all_nodes())


def _with_outputs_of(model: ir.Model, other: ir.Model) -> ir.Model:
    """`model` with only the outputs that `other` still has."""
    kept = {value.name for value in other.graph.outputs}
    narrowed = model.clone()
    narrowed.graph.outputs[:] = [value for value in narrowed.graph.outputs if value.name in kept]
    return narrowed


def _rehearse(model: ir.Model, feeds: Sequence[Feeds]) -> None:
    """Raise what the model raises by itself on these feeds: then the feeds or the model are at fault, no pass."""
    run = runner(model)
    for feed in feeds:
        run(feed)


def _caused(error: TersorError, cause: Exception) -> TersorError:
    error.__cause__ = cause
    return error


def _subject(stretch: Sequence[Pass]) -> str:
    names = ", ".join(title(step) for step in stretch)
    return f"the pass {names}" if len(stretch) == 1 else f"the passes {names}"
