"""Which weight sites a pass takes on, and why it leaves the others: options that passes over weights share."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ..ir.constants import tensor_of
from ..ir.level import DOMAIN
from ..ir.provenance import scope, sources
from ..ir.site import Kind, Site
from ..ir.text import place
from .base import Context, Curve, Finding, Miss, Outcome, Pass
from .edit import attribute

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)

#: A site and why it stays as it is; None where it is taken on.
Verdict = tuple[Site, Miss | None]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What `only`, `ignore` and `smallest` mean.

    only, ignore: glob patterns over site names, kinds (`kind:embedding`) and blocks (`block:3`). smallest: fewest
    weights of a site. kinds: those that are taken on; options: what asks for the others, where anything
    does: the name of a switch, or an option with its value. tied: take on weights that several nodes read; whether
    they read them alike, and whether all are taken on, says `together`.
    """

    kinds: Collection[Kind]
    options: Mapping[Kind, str] = field(default_factory=dict)
    smallest: int = 1024
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    dtypes: Collection[ir.DataType] = FLOATS
    tied: bool = False

    def verdict(self, site: Site) -> Miss | None:
        """Why the site stays as it is."""
        return self._left(site) or self._unfit(site)

    def computed(self, site: Site) -> Miss:
        """Why a site stays as it is whose weight nodes compute from constants."""
        tensor = tensor_of(site.weight)
        if any(node.domain == DOMAIN and node.op_type == "Unmask" for node in site.view.path):
            need = "weights that are stored dense; give the pass that pruned it storage=dense"
            return self._left(site) or Miss("pruned", site.name, need)
        if tensor is None or tensor.dtype in FLOATS:
            return self._left(site) or Miss("weight", site.name, "an initializer; run fold-constants first")
        return self._left(site) or Miss("quantized", site.weight.name or "", "weights that are not quantized yet")

    def _left(self, site: Site) -> Miss | None:
        """Why the options leave it out."""
        left = left_out(names(site), self.only, self.ignore)
        if left is not None:
            return left
        if site.kind not in self.kinds:
            option, kinds = self.options.get(site.kind), " or ".join(kind.value for kind in self.kinds)
            asked = option if option is None or "=" in option else f"{option}=true"
            return Miss("kind", site.kind.value, f"the option {asked}" if asked else f"a site of kind {kinds}")
        return None

    def _unfit(self, site: Site) -> Miss | None:
        tensor = site.weight.const_value
        if not site.weight.is_initializer() or site.weight.is_graph_input() or tensor is None:
            return Miss("weight", site.name, "an initializer that nobody may override; run fold-constants first")
        if any(node.op_type == "DequantizeLinear" for node in site.view.path):
            return Miss("quantized", site.weight.name or "", "weights that are not quantized yet")
        names = ", ".join(dtype.name.lower() for dtype in self.dtypes)
        if tensor.dtype not in self.dtypes:
            return Miss("dtype", tensor.dtype.name.lower(), f"weights of {names}")
        passed = [site.weight, *(node.outputs[0] for node in site.view.path)]
        several = site.tied or any(len(value.uses()) > 1 or value.is_graph_output() for value in passed)
        if several and not self.tied:
            return Miss("tied", ", ".join(site.tied) or site.name, "a weight that one node reads")
        if tensor.size < self.smallest:
            return Miss("size", f"{tensor.size} weights", f"at least {self.smallest}")
        with np.errstate(over="ignore"):
            read = site.view.array()
        kind = ir.DataType.from_numpy(read.dtype)
        if kind not in self.dtypes:
            return Miss("dtype", kind.name.lower(), f"weights that are read as {names}")
        if not np.isfinite(read.astype(np.float32, copy=False)).all():
            return Miss("finite", site.name, "weights without NaN and infinity")
        return None


def together(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """The verdicts, of which a weight that several sites read is taken on for all of them or for none.

    They have to read it alike, by one value on the same side of the same op in one graph, and once; nothing else may.
    """
    found = list(verdicts)
    readers: dict[ir.Value, list[Verdict]] = {}
    for site, miss in found:
        readers.setdefault(site.weight, []).append((site, miss))
    return [(site, miss or _apart(site, readers[site.weight])) for site, miss in found]


def _apart(site: Site, readers: Sequence[Verdict]) -> Miss | None:
    """Why a site stays as it is on account of what else reads its weight."""
    *between, read = site.weight, *(node.outputs[0] for node in site.view.path)
    known = {reader.node for reader, _ in readers}
    others = [node.name or node.op_type for node in read.consumers() if node not in known]
    others += [reader.name for reader, _ in readers if _reads(reader) != _reads(site)]
    others += ["an output" for value in (*between, read) if value.is_graph_output()]
    if others or len(read.uses()) != len(known) or any(len(value.uses()) > 1 for value in between):
        return Miss("tied", ", ".join(others) or site.name, "a weight that one node reads, or several alike")
    left = next(((reader, miss) for reader, miss in readers if miss is not None), None)
    if left is None:
        return None
    return Miss("tied", f"{left[0].name}, left for {left[1]}", "all that reads the weight to be taken on")


def _reads(site: Site) -> tuple[object, ...]:
    """How a site reads its weight."""
    group = attribute(site.node, "group", 1)
    return site.kind, site.node.graph, site.node.op_type, site.flipped, site.view.path, group


def left_out(known: Sequence[str], only: Collection[str], ignore: Collection[str]) -> Miss | None:
    """Why two options leave out what patterns know by these names, the first being the one to tell."""
    if only and not named(known, only):
        return Miss("only", known[0], f"a name like {', '.join(only)}")
    if named(known, ignore):
        return Miss("ignore", known[0], f"a name unlike {', '.join(ignore)}")
    return None


def names(site: Site) -> list[str]:
    """What patterns know a site by."""
    return [site.name, f"kind:{site.kind.value}", *([] if site.block is None else [f"block:{site.block}"])]


def idle(patterns: Iterable[str], known: Collection[Collection[str]]) -> list[str]:
    """The patterns that fit nothing; kinds that a model may well have none of do not count."""
    kinds = {f"kind:{kind.value}" for kind in Kind} | {"kind:attention"}
    return [each for each in patterns if each not in kinds and not any(named(found, [each]) for found in known)]


def sparing_nothing(ignore: Iterable[str], known: Collection[Collection[str]], what: str = "a site") -> list[Finding]:
    """A finding for each pattern that fits none of what is known by these names."""
    need = f"a pattern that fits {what}; tersor explain lists them"
    return [Finding(f"ignore={each}", miss=Miss("ignore", each, need)) for each in idle(ignore, known)]


def named(known: Collection[str], patterns: Iterable[str]) -> bool:
    """Whether one of the names fits one of the patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns for name in known)


def paying(made: Pass, model: ir.Model, verdicts: Sequence[Verdict], context: Context | None) -> list[Verdict]:
    """The verdicts, and of sites that were taken on those left alone that are slower then on the target.

    Tables are not asked about: they are taken in for their size, and a lookup is a sliver of any run.
    """
    pays = None if context is None else context.pays
    if pays is None:
        return list(verdicts)
    asked = (miss is None and site.kind is not Kind.EMBEDDING for site, miss in verdicts)
    return [
        (site, pays(made, model, site) if asking else miss)
        for (site, miss), asking in zip(verdicts, asked, strict=True)
    ]


def outcome(
    verdicts: Sequence[Verdict],
    chosen: Mapping[ir.Value, str] | None = None,
    curve: Curve | None = None,
    *,
    ignore: Collection[str] = (),
) -> Outcome:
    """The findings of a pass, one for each site; what it chose for weights, and between what.

    ignore: the option's patterns; one that fits no site is a finding too, for it spares nothing.
    """
    told = chosen or {}
    return Outcome(
        tuple(
            Finding(
                f"{site.name} ({place(site.node)})",
                sources(site.node),
                miss,
                scope(site.node),
                "" if miss else told.get(site.weight, ""),
            )
            for site, miss in verdicts
        )
        + tuple(sparing_nothing(ignore, [names(site) for site, _ in verdicts])),
        curve,
    )
