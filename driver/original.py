"""The original model as the standard: its answers on feeds, its metric, and how far a candidate may be from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir

from ..backends.base import Interface, Session
from ..ir.compare import Comparison, compare
from ..ir.conditioning import amplification
from ..ir.errors import ContractError
from ..ir.feeds import Array, Feeds
from ..ir.runner import runner
from ..passes.base import Contract, Exact, Lossy
from ..passes.verify import allowed, worst_loss

#: Answers are kept for at most this many batches of a kind, and this many bytes of them.
BATCHES = 8
BYTES = 256 * 1024 * 1024

#: Roundings to 16 bits that add up on the way to an output: their errors grow as the root of how many there are.
_ROUNDINGS = 16

Answers = Mapping[str, Array]


@dataclass(frozen=True)
class Recorded:
    """Feeds and what the original answered to them, batch by batch.

    coarse: the unit in the last place of the 16-bit floats that it computes in, 0 where there are none.
    """

    feeds: Sequence[Feeds] = ()
    answers: Sequence[Answers] = ()
    coarse: float = 0.0

    def against(self, session: Session) -> Comparison:
        """How far a session is from the original, over all batches."""
        answers = iter(self.answers)
        return compare(lambda _: next(answers), session, self.feeds)


class Original(Session):
    """The untouched model, as verification runs it."""

    def __init__(self, model: onnx_ir.Model) -> None:
        super().__init__(Interface.of(model))
        self._run = runner(model)

    def run_unchecked(self, feeds: Feeds) -> dict[str, Array]:
        return dict(self._run(feeds))


def record(session: Session, batches: Iterable[Feeds], limit: int = BATCHES) -> Recorded:
    """The answers of the first batches, up to `limit` and BYTES but at least one."""
    feeds: list[Feeds] = []
    answers: list[Answers] = []
    size = 0
    for batch in batches:
        if len(feeds) >= limit or (feeds and size > BYTES):
            break
        answers.append(session.run(batch))
        feeds.append(batch)
        size += sum(array.nbytes for array in answers[-1].values())
    return Recorded(feeds, answers)


def combined(contracts: Iterable[Contract], coarse: float = 0.0) -> Contract:
    """What passes promise together: losses add up, and one lossy pass makes the whole lossy.

    In cosine where any pass speaks of cosine: a relative L2 error e moves the cosine by no more than 1 - sqrt(1 - e^2).
    coarse: the unit in the last place of the 16-bit floats that the original computes in, 0 for none. Runtimes round
    such a model in different places, so it is held to some of these units.
    """
    kept = list(contracts)
    lossy = [contract for contract in kept if isinstance(contract, Lossy)]
    if not lossy:
        tolerance = max((allowed(contract) for contract in kept), default=Exact().tolerance)
        return Exact(tolerance=max(tolerance, _ROUNDINGS * coarse))
    if all(contract.metric != "cosine" for contract in lossy):
        return Lossy(metric=lossy[0].metric, budget=sum(contract.budget for contract in lossy))
    return Lossy(metric="cosine", budget=sum(map(_as_cosine, lossy)))


def hold(contract: Contract, comparison: Comparison, who: str, session: Session, feeds: Sequence[Feeds]) -> None:
    """Raise ContractError where the loss of a comparison is over the contract.

    An exact contract yields to the model's own amplification of rounding: as much as its answers change when its inputs
    change in their last bits (`ir.conditioning`).
    """
    loss, limit = worst_loss(contract, comparison), allowed(contract)
    if not loss <= limit and isinstance(contract, Exact):
        limit = max(limit, worst_loss(contract, amplification(session, feeds)))
    if not loss <= limit:
        raise ContractError(
            f"{who} was compiled as {contract}, measured {loss:.3g} on output {comparison.worst.name} against the "
            "original: leave out the lossy option or pass that does it, or choose another target"
        )


def _as_cosine(contract: Lossy) -> float:
    if contract.metric == "cosine":
        return contract.budget
    return 1.0 - math.sqrt(max(0.0, 1.0 - contract.budget**2))
