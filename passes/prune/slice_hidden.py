"""Fewer hidden features: the residual stream is written in the directions that it takes, and every weight beside it.

    before   embedding [105, 128]   q, k, v, up, gate [128, n]   o, down [n, 128]   norms [128]   head [128, 105]
    after    embedding [105,  96]   q, k, v, up, gate [ 96, n]   o, down [n,  96]   norms [ 96]   head [ 96, 105]

Lossy; exact where the stream never leaves so many directions. Where norms follow sums, as in BERT, each segment between
two norms has directions of its own and its residual a matrix of [kept, kept], for the norm's scale turns them. Left
alone: what linear layers do not read, streams that would need as many multiplications as before, and those whose mean
LayerNormalization takes and something else reads. Tied tables are stored apart where a norm's scale lies between.

Sources: Ashkboos et al., SliceGPT: Compress Large Language Models by Deleting Rows and Columns, 2024, with one basis
for all blocks; Khetan and Karnin, schuBERT: Optimizing Elements of BERT, 2020 (`features`); repair as in `fitting`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from typing import ClassVar, Literal

import onnx_ir as ir

from ...ir.provenance import scope, sources
from ...ir.site import Kind, Site, sites
from ...ir.text import place
from ..base import Context, Contract, Finding, Lossy, Miss, Outcome, Pass
from ..choosing import left_out, sparing_nothing
from ..fitting import Fit, again, repairable, scarce, write
from ..moments import Moments, Origins, key_of, moments
from ..statistics import Calibration
from .amount import check_amount, remaining
from .directions import bases, circular
from .methods.pca import features, principal
from .rotation import FIRST, rotate
from .segments import Made, Stream, held, streams


@dataclass(frozen=True, kw_only=True)
class SliceHidden(Pass):
    """hidden features out of the whole stream, by the directions that it takes

    ratio: the share of the features that the stream had at first that go, at least 0 and less than 1.
    multiple: what stays is a multiple of so many features, and at least that.
    directions: `principal` are those of most energy on calibration data, `weights` of the weights that write the
        stream; `features` are whole features of most energy. `auto` is principal with data and weights without.
    repair: fit what writes and reads the stream to the original's, by least squares, where there are data.
    only, ignore: glob patterns over what the norms of a stream are called: their modules, values and scales.
    """

    name: ClassVar[str] = "slice-hidden"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=0.2)
    ratio: float = 0.25
    multiple: int = 8
    directions: Literal["auto", "principal", "weights", "features"] = "auto"
    repair: bool = True
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_amount(self.name, self.ratio, self.multiple, "at 1 nothing would be left of the stream")

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        if self.ratio == 0:
            return Outcome()
        if self.directions in ("principal", "features") and context.calibration is None:
            context.statistics(model, ())  # says that data are needed
        seen = self._seen(context)
        original = model.clone()
        origins: Origins = {}
        findings, lost = [], self._lost(model)
        for number in range(len(streams(model))):
            # a layer between two streams is another one once the first is written
            stream = streams(model)[number]
            miss, told = self._verdict(stream, seen), ""
            node, size = stream.node, stream.size
            findings.append(Finding(place(node), sources(node), miss, scope(node)))
            if miss is None:
                touched = {site.node for site in (*stream.readers, *stream.writers.values())}
                kept = self.left(_first(stream))
                method = features if self.directions == "features" else principal
                # a layer that is fitted again may write a stream that was turned before
                origins = {**origins, **rotate(stream, bases(model, stream, kept, method, seen))}
                told = f"{size:,} -> {kept:,}, {self._repair(model, original, context.calibration, touched, origins)}"
                findings[-1] = replace(findings[-1], chosen=told)
        return Outcome((*(tuple(findings) or _NOTHING), *lost))

    def explain(self, model: ir.Model, context: Context) -> Outcome:
        """The verdict at every stream, leaving `model` as it is."""
        findings, lost = [], self._lost(model)
        for stream in streams(model):
            miss, node = self._verdict(stream, self._seen(context)), stream.node
            told = "" if miss is not None else f"{stream.size:,} -> {self.left(_first(stream)):,}"
            findings.append(Finding(place(node), sources(node), miss, scope(node), told))
        return Outcome((*(tuple(findings) or _NOTHING), *lost))

    def left(self, size: int) -> int:
        """How many of `size` features stay."""
        return remaining(size, self.ratio, self.multiple)

    def _seen(self, context: Context) -> Context | None:
        """What tells directions; None where the weights do."""
        return None if context.calibration is None or self.directions == "weights" else context

    def _lost(self, model: ir.Model) -> list[Finding]:
        """The patterns of `ignore` that spare nothing."""
        known = [_names(stream) for stream in streams(model)]
        return sparing_nothing(self.ignore, known, "a norm")

    def _verdict(self, stream: Stream, seen: Context | None) -> Miss | None:
        first, size, known = _first(stream), stream.size, _names(stream)
        left = left_out(known, self.only, self.ignore)
        if left is not None:
            return left
        kept = self.left(first)
        if first <= self.multiple:
            return Miss("size", f"{first} features", f"more than {self.multiple}, which stay at least")
        if size <= kept:
            return Miss("ratio", f"{size:,} of {first:,} features", f"more than the {kept:,} that stay")
        miss = held(stream) or (circular(stream) if seen is None else None)
        if miss is not None:
            return miss
        before, after = products(stream, kept)
        if after >= before:
            return Miss("size", f"{after:,} products a token at {kept:,} features", f"fewer than now, {before:,}")
        before, after = stored(stream, kept)
        # with fewer products and no weight that is shared, there are fewer weights too
        if after >= before:
            return Miss("tied", f"{after:,} weights apart", f"fewer than now, {before:,}, where layers share them")
        return None

    def _repair(
        self,
        model: ir.Model,
        original: ir.Model,
        calibration: Calibration | None,
        touched: set[ir.Node],
        origins: Origins,
    ) -> str:
        """Fit, layer after layer, what reads and writes the stream; what was done, in words."""
        if not self.repair:
            return "not repaired"
        if calibration is None:
            return "no data to repair on"
        listed = [site for site in sites(model) if site.node in touched and repairable(site) is None and not site.tied]
        done: list[tuple[Fit, Moments]] = []
        for _, layer in groupby(listed, key=lambda site: id(site.activation)):
            reading = list(layer)
            seen = moments(original, model, calibration, reading, origins)
            for site in reading:
                known = seen[key_of(site)]
                found = again(site, known)
                write(site, found)
                done.append((found, known))
        ridges = [found.ridge for found, _ in done if found.ridge is not None]
        few = scarce(max((known for _, known in done), key=lambda known: len(known.gram))) if done else ""
        told = f"{len(ridges)} of {len(done)} layers repaired"
        return f"{told}; {few}, ridge up to {max(ridges, default=0.0):.2g}" if few else told


def _sizes(stream: Stream, kept: int) -> list[tuple[Site, int, int]]:
    """Each layer and table beside a stream, with its inputs and outputs once so many features stay."""
    reading = {site.node for site in stream.readers}
    writing = {site.node for site in stream.writers.values()}
    beside = {site.node: site for site in (*stream.readers, *stream.writers.values())}
    return [
        (site, kept if node in reading else site.in_features, kept if node in writing else site.out_features)
        for node, site in beside.items()
    ]


def products(stream: Stream, kept: int) -> tuple[int, int]:
    """Multiplications for a token in the layers beside a stream, as they are and with `kept` features."""
    linear = [each for each in _sizes(stream, kept) if each[0].kind is Kind.LINEAR]
    before = sum(site.in_features * site.out_features for site, _, _ in linear)
    return before, sum(inputs * outputs for _, inputs, outputs in linear) + _matrices(stream, kept)


def stored(stream: Stream, kept: int) -> tuple[int, int]:
    """Weights of the layers and tables beside a stream: those that share one have it apart with `kept` features."""
    sizes = _sizes(stream, kept)
    before = {site.weight: site.in_features * site.out_features for site, _, _ in sizes}
    after = sum(inputs * outputs for _, inputs, outputs in sizes)
    return sum(before.values()), after + _matrices(stream, kept)


def _matrices(stream: Stream, kept: int) -> int:
    """Elements of the matrices that come to be: on residuals, and where something writes or sees the stream whole."""
    whole = sum(made is Made.WHOLE or stream.seen_whole(value) for value, made in stream.made.items())
    return kept * kept * sum(1 for _ in stream.crossings()) + stream.size * kept * whole


def _names(stream: Stream) -> list[str]:
    """What patterns know a stream by."""
    called = [(scope(norm.node), norm.value.name, norm.node.inputs[1]) for norm in stream.norms.values()]
    return [name for module, value, scale in called for name in (module, value, scale and scale.name) if name]


def _first(stream: Stream) -> int:
    """How many features there were before any pass took some."""
    return max(int(norm.node.metadata_props.get(FIRST, stream.size)) for norm in stream.norms.values())


_NOTHING = (Finding("the graph", miss=Miss("norm", "none", "a normalization over features that linear layers read")),)
