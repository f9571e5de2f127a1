"""What passes that store weights in another way share: the options that say which weights, and the verdicts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import onnx_ir as ir

from ..ir.site import Kind, Site, computed_sites, sites
from .base import Context, Miss, Outcome, Pass
from .choosing import FLOATS, Choice, Verdict, outcome, paying, together
from .placing import Structured

S = TypeVar("S", bound=Structured)

#: The option that takes in sites of a kind; linear ones always are.
OPTIONS: Mapping[Kind, str] = {
    Kind.EMBEDDING: "embeddings",
    Kind.CONV: "convolutions",
    Kind.RECURRENT_INPUT: "recurrent",
    Kind.RECURRENT_HIDDEN: "recurrent",
}


@dataclass(frozen=True, kw_only=True)
class WeightPass(Pass):
    """Weights that several sites read alike are stored once, for all of them.

    embeddings, convolutions, recurrent: take in sites of these kinds beside linear ones.
    smallest: sites with fewer weights than this stay as they are.
    only, ignore: glob patterns over site names, `kind:..` and `block:..`.
    """

    #: Types of weights that it takes on.
    dtypes: ClassVar[Collection[ir.DataType]] = FLOATS
    embeddings: bool = False
    convolutions: bool = False
    recurrent: bool = True
    smallest: int = 1024
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def explain(self, model: ir.Model, context: Context) -> Outcome:
        """The verdict at every weight site, leaving `model` as it is."""
        return outcome(self.verdicts(model, context), ignore=self.ignore)

    def verdicts(self, model: ir.Model, context: Context | None = None) -> list[Verdict]:
        """Every weight site, and why it stays as it is; the last reason is `Context.pays`."""
        asked = [kind for kind, option in OPTIONS.items() if getattr(self, option)]
        choice = Choice(
            kinds=(Kind.LINEAR, *asked),
            options=OPTIONS,
            smallest=self.smallest,
            only=self.only,
            ignore=self.ignore,
            dtypes=self.dtypes,
            tied=True,
        )
        found = [(site, choice.verdict(site) or self.unfit(site)) for site in sites(model)]
        stored: list[Verdict] = [(site, choice.computed(site)) for site in computed_sites(model)]
        return [*together(paying(self, model, together(found), context)), *stored]

    def unfit(self, site: Site) -> Miss | None:
        """Why a site that was chosen stays as it is all the same."""
        return None


def taken(verdicts: Iterable[Verdict]) -> list[Site]:
    """The first site of each weight that a pass takes on."""
    found: dict[ir.Value, Site] = {}
    for site in reading(verdicts):
        found.setdefault(site.weight, site)
    return list(found.values())


def reading(verdicts: Iterable[Verdict]) -> list[Site]:
    """The sites that a pass takes on, one for each node that reads a weight: both directions of a recurrence lie in one
    tensor, and count once.
    """
    return list({(site.node, site.weight): site for site, miss in verdicts if miss is None}.values())


def smaller(verdicts: Iterable[Verdict], make: Callable[[Site], S]) -> Iterator[tuple[Verdict, S | None]]:
    """The verdict at each site, and with the first site of each weight what it becomes where that is fewer bytes."""
    met: dict[ir.Value, Miss | None] = {}
    for site, miss in verdicts:
        if miss is not None or site.weight in met:
            yield (site, miss or met.get(site.weight)), None
            continue
        found, stored = make(site), site.weight.const_value
        assert stored is not None  # a site that was chosen is stored
        fits = found.bytes < stored.nbytes
        miss = None if fits else Miss("bytes", str(found.bytes), f"fewer than the weight's {stored.nbytes}")
        met[site.weight] = miss
        yield (site, miss), found if fits else None
