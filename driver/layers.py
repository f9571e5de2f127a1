"""Which layer broke: the sites that passes rewrote, by the error that each adds to the model's answers.

alone      only this site rewritten, or all that read its weight: the error of the model's outputs
prefix     all sites up to this one rewritten; `added` is what the error grew by
local      the error of the site's own output, computed from the original's activations
in place   the error of the site's own output in the model with all sites rewritten

Errors are relative L2 and 1 - cosine, of the worst output, over all batches. Errors of single sites are nearly
orthogonal, so their squares add up: a site's share is its square over the sum of all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

import onnx_ir

from ..ir.errors import OptionError, nearest
from ..ir.feeds import Feeds
from ..ir.provenance import shared
from ..passes.base import Context, Pass
from ..passes.pipeline import Pipeline, text_of
from ..passes.run import Observer
from . import metric as metrics
from .lockstep import Lockstep, Tensors
from .metric import Metric
from .original import Original
from .recipe import Recipe
from .rewritten import Part, rewritten
from .sweep import Errors, Loss, Sums, Swept, kept, measured, sweep
from .variants import Reference, Variants, ignoring, outputs_of, rewrite

T = TypeVar("T")

By = Literal["site", "block", "kind"]
Sort = Literal["alone", "prefix", "local"]

#: Batches that errors are measured on, taken evenly from those that no pass saw.
BATCHES = 4

#: The part of the error that sites left out have to take away to be worth a hint.
GOAL = 0.5


@dataclass(frozen=True)
class Subject:
    """A model before and after passes, and the batches on which errors are measured; note: where these come from."""

    before: onnx_ir.Model
    after: onnx_ir.Model
    passes: Sequence[Pass]
    context: Context
    batches: Sequence[Feeds]
    note: str


@dataclass(frozen=True)
class Row:
    """One site, or all of a weight, block or kind; index: its place in the order of execution.

    sites: names as `only` and `ignore` take them. module: the user's own around them. bytes: before and after.
    added: what the error of prefix grew by. metric: the user's, with only these rewritten.
    """

    index: int
    name: str
    sites: tuple[str, ...]
    module: str
    kind: str
    block: int | None
    bytes: tuple[int, int]
    alone: Loss
    share: float
    prefix: Loss
    added: float
    local: float
    in_place: float
    metric: float | None = None


@dataclass(frozen=True)
class Advice:
    """Sites to leave as they were, as measured on a model that the passes made without them.

    error: of the model then, relative L2. bytes: that its weights take more. recipe: the passes, as YAML.
    """

    sites: tuple[str, ...]
    error: float
    bytes: int
    recipe: str


@dataclass(frozen=True)
class Layers:
    """The ranking with all that it takes to judge and repeat it.

    whole: the error of the rewritten model. rest: what of it lies behind the last site, or between sites where no site
    sees it. scores: the user's metric of the original and of the rewritten model. unseen: sites that could not be told
    apart, each with the reason. advice: None where leaving out half of the sites does not halve the error.
    """

    passes: str
    by: By
    sort: Sort
    rows: tuple[Row, ...]
    whole: Loss
    rest: float
    metric: str | None
    scores: tuple[float, float] | None
    outputs: tuple[str, ...]
    feeds: str
    batches: int
    shapes: Mapping[str, tuple[int, ...]]
    target: str
    unseen: tuple[tuple[str, str], ...]
    advice: Advice | None


def rank(
    subject: Subject,
    *,
    by: By = "site",
    sort: Sort = "alone",
    outputs: Collection[str] = (),
    metric: tuple[str, Metric] | None = None,
    variants: tuple[str, Variants] | None = None,
    advise: bool = True,
    observe: Observer | None = None,
) -> Layers:
    """Rank what was rewritten by what it breaks, worst first.

    outputs: those whose errors count; all without. variants: a target's name and what opens models on it; the
    reference interpreter without. Raises OptionError for an output that is not there, UnsupportedError for ops that the
    interpreter or the target does not know, ModelError where the metric fails.
    """
    say = observe or (lambda _: None)
    wanted = _outputs(subject.before, outputs)
    steps = Lockstep(rewritten(subject.before, subject.after))
    parts = steps.found.parts
    made = variants[1] if variants is not None else lambda chosen: Reference(steps, chosen)
    groups = _groups(parts, by)
    quick = variants is None and all(len(chosen) == 1 for _, chosen in groups)
    swept = sweep(steps, subject.batches, wanted, each=quick, observe=say)
    trial = _Trial(made, steps, subject.batches, wanted)
    if quick:
        alone = [swept.errors[part].alone for part in parts]
        prefix, whole = [swept.errors[part].prefix for part in parts], swept.whole
    else:
        alone = [trial.error(chosen, say, f"{name} alone") for name, chosen in groups]
        upto = [tuple(part for _, some in groups[: index + 1] for part in some) for index in range(len(groups))]
        prefix = [trial.error(chosen, say, f"up to {name}") for (name, _), chosen in zip(groups, upto, strict=True)]
        whole = swept.whole if variants is None else trial.error(parts, say, "all sites")
    scores = [_score(metric, made, chosen, say, name) for name, chosen in groups]
    rows = _rows(groups, swept, alone, prefix, scores)
    last = prefix[-1].loss.relative_l2 if prefix else 0.0
    ranked = sorted(rows, key=lambda row: -_key(row, sort))
    ends = None
    if metric is not None:
        original = metrics.evaluate(*metric, Original(subject.before), "the original model")
        ends = original, metrics.evaluate(*metric, made(parts), "the rewritten model")
    advice = None
    if advise and parts:
        advice = _advice(subject, steps, trial, rows, whole.loss.relative_l2, say)
    return Layers(
        passes=",".join(map(text_of, subject.passes)),
        by=by,
        sort=sort,
        rows=tuple(ranked),
        whole=whole.loss,
        rest=whole.loss.relative_l2 - last,
        metric=None if metric is None else metric[0],
        scores=ends,
        outputs=tuple(wanted),
        feeds=subject.note,
        batches=len(subject.batches),
        shapes={name: array.shape for name, array in subject.batches[0].items()},
        target="the reference interpreter" if variants is None else variants[0],
        unseen=tuple((site.name, reason) for site, reason in steps.found.unseen),
        advice=advice,
    )


def spread(batches: Sequence[Feeds], count: int = BATCHES) -> list[Feeds]:
    """So many batches, evenly from all."""
    taken = min(count, len(batches))
    return [batches[(2 * index + 1) * len(batches) // (2 * taken)] for index in range(taken)]


@dataclass(frozen=True)
class _Trial:
    """What it takes to measure the error of a choice of sites."""

    made: Variants
    steps: Lockstep
    batches: Sequence[Feeds]
    outputs: Collection[str]

    @cached_property
    def references(self) -> list[Tensors]:
        """What the original answers."""
        return [kept(self.steps.before.tensors(feeds), self.outputs) for feeds in self.batches]

    def error(self, chosen: Collection[Part], say: Observer, what: str) -> Sums:
        """The error with only these sites rewritten."""
        say(what)
        return measured(outputs_of(self.made(chosen), self.outputs), self.batches, self.references)


def _outputs(model: onnx_ir.Model, asked: Collection[str]) -> list[str]:
    known = [value.name or "" for value in model.graph.outputs]
    for name in asked:
        if name not in known:
            raise OptionError(f"the model has no output {name!r}; {nearest(name, known)}")
    return [name for name in known if not asked or name in asked]


def _groups(parts: Sequence[Part], by: By) -> list[tuple[str, tuple[Part, ...]]]:
    """What is ranked, each with its name, in the order of execution.

    A weight that several sites read is rewritten for all of them, and counts where it is read first.
    """
    weights: dict[onnx_ir.Value, list[Part]] = {}
    for part in parts:
        weights.setdefault(part.sites[0].weight, []).append(part)
    if by == "site":
        return [(members[0].name, tuple(members)) for members in weights.values()]
    found: dict[str, list[Part]] = {}
    for members in weights.values():
        first = members[0].sites[0]
        place = "outside blocks" if first.block is None else f"block {first.block}"
        found.setdefault(first.kind.value if by == "kind" else place, []).extend(members)
    return [(name, tuple(members)) for name, members in found.items()]


def _bytes(parts: Iterable[Part]) -> tuple[int, int]:
    """What the constants of parts take before and after, those of a weight that several read once."""
    once = {part.sites[0].weight: part.bytes for part in reversed(list(parts))}
    return sum(before for before, _ in once.values()), sum(after for _, after in once.values())


def _rows(
    groups: Sequence[tuple[str, tuple[Part, ...]]],
    swept: Swept,
    alone: Sequence[Sums],
    prefix: Sequence[Sums],
    scores: Sequence[float | None],
) -> list[Row]:
    """In the order of execution."""
    losses = [sums.loss for sums in prefix]
    before = [0.0, *(loss.relative_l2 for loss in losses)]
    total = sum(sums.loss.relative_l2**2 for sums in alone)
    return [
        Row(
            index=index,
            name=name,
            sites=tuple(site for part in parts for site in part.names),
            module=shared(part.module for part in parts),
            kind=_common([part.sites[0].kind.value for part in parts]) or "several",
            block=_common([part.sites[0].block for part in parts]),
            bytes=_bytes(parts),
            alone=single.loss,
            share=single.loss.relative_l2**2 / total if total else 0.0,
            prefix=loss,
            added=loss.relative_l2 - earlier,
            local=_worst(parts, swept, lambda errors: errors.local),
            in_place=_worst(parts, swept, lambda errors: errors.in_place),
            metric=score,
        )
        for index, ((name, parts), single, loss, earlier, score) in enumerate(
            zip(groups, alone, losses, before, scores, strict=False)
        )
    ]


def _worst(parts: Iterable[Part], swept: Swept, which: Callable[[Errors], Sums]) -> float:
    return max(which(swept.errors[part]).loss.relative_l2 for part in parts)


def _common(values: Sequence[T]) -> T | None:
    return values[0] if len(set(values)) == 1 else None


def _key(row: Row, sort: Sort) -> float:
    return row.alone.relative_l2 if sort == "alone" else row.added if sort == "prefix" else row.local


def _score(
    metric: tuple[str, Metric] | None, made: Variants, chosen: Collection[Part], say: Observer, name: str
) -> float | None:
    if metric is None:
        return None
    say(f"{metric[0]} of {name} alone")
    return metrics.evaluate(*metric, made(chosen), f"the model with only {name} rewritten")


def _advice(
    subject: Subject, steps: Lockstep, trial: _Trial, rows: Sequence[Row], whole: float, say: Observer
) -> Advice | None:
    """The fewest of the worst sites that halve the error when they are left out; at most half of all.

    Found by halving the range among runs in which they are the original's; then measured on what the passes make.
    """
    order = sorted(rows, key=lambda row: -row.alone.relative_l2)
    parts = steps.found.parts

    def without(count: int) -> float:
        names = {name for row in order[:count] for name in row.sites}
        chosen = [part for part in parts if part.name not in names]
        return trial.error(chosen, say, f"without the worst {count}").loss.relative_l2

    low, high = 1, len(order) // 2
    if not whole > 0 or not high or without(high) > GOAL * whole:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if without(middle) <= GOAL * whole else (middle + 1, high)
    names = tuple(name for row in order[:high] for name in row.sites)
    kept_passes = tuple(ignoring(subject.passes, names))
    say(f"the passes without {len(names)} sites")
    model = subject.before.clone()
    rewrite(model, kept_passes, subject.context, None)
    found = rewritten(subject.before, model)
    other = Lockstep(found)
    again = _Trial(lambda chosen: Reference(other, chosen), other, trial.batches, trial.outputs)
    return Advice(
        sites=names,
        error=again.error(found.parts, say, "the model that they make").loss.relative_l2,
        bytes=sum(row.bytes[0] - row.bytes[1] for row in order[:high]),
        recipe=Recipe(passes=Pipeline(steps=kept_passes)).text(),
    )
