"""What a compile was asked for: arguments and recipe joined, everything named in them found, before work starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..backends.base import Backend
from ..backends.catalogue import candidates
from ..ir import reference
from ..ir.errors import OptionError, UnsupportedError
from ..ir.load import Source
from ..passes.base import Pass
from ..passes.pipeline import Pipeline
from ..passes.run import Verify
from . import metric as metrics
from .data import absolute
from .metric import MaxDrop, Metric
from .origin import recorded
from .recipe import Recipe, pipeline_of, verify_of
from .select import TIMING_SECONDS

if TYPE_CHECKING:
    from ..ir.dynamic import Dynamic

Data = str | Path | Iterable[object]


@dataclass(frozen=True, kw_only=True)
class Request:
    """A compile, resolved. `recipe` reruns it; `notes` say what of it only lives in the caller's code."""

    source: Source
    args: Sequence[object]
    kwargs: Mapping[str, object] | None
    dynamic: Dynamic | None
    target: str
    backends: tuple[Backend, ...]
    passes: Pipeline
    data: Data | None
    metric: tuple[str, Metric] | None
    max_drop: MaxDrop | None
    strict: bool
    force: bool
    size_first: bool
    resume: Path | None
    verify: Verify
    timing_seconds: float
    recipe: Recipe
    notes: tuple[str, ...]


def resolve(
    source: Source | None,
    *,
    target: str,
    passes: str | Pass | Sequence[object] | None,
    recipe: str | Path | Recipe | None,
    data: Data | None,
    metric: str | Metric | None,
    max_drop: str | float | None,
    verify: str | Verify,
    exact: bool,
    strict: bool,
    force: bool,
    size_first: bool,
    resume: str | Path | None,
    args: Sequence[object],
    kwargs: Mapping[str, object] | None,
    dynamic: Dynamic | None,
) -> Request:
    """Join arguments and recipe; an argument left at its default gives way to the recipe.

    Raises OptionError for anything unknown or unfit, UnsupportedError for a target that is not installed.
    """
    base = Recipe() if recipe is None else recipe if isinstance(recipe, Recipe) else Recipe.read(recipe)
    mode = verify_of(verify)
    joined = Recipe(
        source=None if source is None else recorded(source),
        target=None if target == "cpu" else target,
        passes=None if passes is None else pipeline_of(passes),
        data=str(data) if isinstance(data, str | Path) else None,
        metric=metric if isinstance(metric, str) else None,
        max_drop=None if max_drop is None else str(max_drop),
        exact=exact or None,
        strict=strict or None,
        force=force or None,
        size_first=size_first or None,
        verify=None if mode is Verify.FAST else mode,
    ).over(base)
    found = source if source is not None else joined.source
    if found is None:
        raise OptionError("there is nothing to compile: give a source, or a recipe that names one")
    wanted = data if data is not None else joined.data
    measure = metric if metric is not None else joined.metric
    measured = None if measure is None else metrics.find(measure)
    pipeline = joined.passes or Pipeline()
    asked = joined.target or "cpu"
    local = [type(step).__qualname__ for step in pipeline.flat() if reference.spell(type(step)) is None]
    notes = {
        "source": recorded(found) is None,
        f"passes that no other process can import ({', '.join(local)})": bool(local),
        "example inputs or dynamic dimensions": bool(args or kwargs or dynamic),
        "data": wanted is not None and not isinstance(wanted, str | Path),
        "metric": measured is not None and not metrics.is_found_by_name(measured),
    }
    return Request(
        source=found,
        args=args,
        kwargs=kwargs,
        dynamic=dynamic,
        target=asked,
        backends=_backends(asked),
        passes=pipeline.exact() if joined.exact else pipeline,
        data=wanted,
        metric=measured,
        max_drop=None if joined.max_drop is None else MaxDrop.of(joined.max_drop),
        strict=bool(joined.strict),
        force=bool(joined.force),
        size_first=bool(joined.size_first),
        resume=None if resume is None else Path(resume).expanduser(),
        verify=joined.verify or Verify.FAST,
        timing_seconds=joined.timing_seconds or TIMING_SECONDS,
        recipe=Recipe(
            source=recorded(found),
            target=asked,
            passes=pipeline,
            data=None if notes["data"] or wanted is None else absolute(str(wanted)),
            metric=None if notes["metric"] or measured is None else measured[0],
            max_drop=joined.max_drop,
            exact=joined.exact,
            strict=joined.strict,
            force=joined.force,
            size_first=joined.size_first,
            verify=joined.verify,
            timing_seconds=joined.timing_seconds,
        ),
        notes=tuple(f"not recorded, given in code: {what}" for what, only in notes.items() if only),
    )


def _backends(target: str) -> tuple[Backend, ...]:
    found = tuple(candidates(target))
    if not found:
        raise UnsupportedError(f"no backend of the target {target!r} is installed; pip install onnxruntime")
    return found
