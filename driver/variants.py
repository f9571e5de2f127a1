"""The models between a model and its rewritten self: only some of the sites that passes take on are rewritten.

In the reference interpreter they are runs of both graphs side by side. For a target each is made by the passes
themselves, told by `only` which sites to take on, then lowered and opened.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir

from ..backends.base import Backend, Interface, Session
from ..ir.errors import OptionError, unsupported
from ..ir.feeds import Array, Feeds
from ..ir.fx.edge import leave
from ..ir.site import sites
from ..ir.text import place
from ..passes.base import Context, Lossy, Pass
from ..passes.pipeline import Pipeline, title
from ..passes.run import Observer, Verify, run_pipeline
from .lockstep import Lockstep
from .rewritten import Part

#: Which of the sites that passes take on are rewritten -> a model that answers.
Variants = Callable[[Collection[Part]], Session]


@dataclass(frozen=True)
class Step:
    """A pass and the names of the sites that it took on."""

    made: Pass
    taken: frozenset[str]

    def narrowed(self, names: Collection[str]) -> Pass | None:
        """The pass with only these sites; None where it has none. Raises OptionError for one without `only`."""
        if not isinstance(self.made.contract, Lossy):
            return self.made
        if not _chooses(self.made):
            raise OptionError(f"{title(self.made)} has no option `only` that tells sites apart; leave --target out")
        kept = sorted(self.taken.intersection(names))
        chosen: dict[str, object] = {"only": tuple(map(escaped, kept))}
        return dataclasses.replace(self.made, **chosen) if kept else None


def rewrite(model: onnx_ir.Model, passes: Iterable[Pass], context: Context, observe: Observer | None) -> list[Step]:
    """Run passes on `model` in place, unverified, and tell which sites each took on."""
    steps: list[Step] = []
    for made in passes:
        labels = {f"{site.name} ({place(site.node)})": site.name for site in sites(model)} if _chooses(made) else {}
        pipeline = Pipeline(steps=(made,))
        report = run_pipeline(pipeline, model, context, verify=Verify.OFF, undo=False, observe=observe)
        fired = {f.place for entry in report.passes for f in entry.findings if f.miss is None}
        steps.append(Step(made, frozenset(name for label, name in labels.items() if label in fired)))
    return steps


def ignoring(passes: Iterable[Pass], names: Iterable[str]) -> Iterator[Pass]:
    """The passes, those that choose among sites told to leave these out as well."""
    patterns = tuple(map(escaped, names))
    for made in passes:
        chosen: dict[str, object] = {"ignore": (*getattr(made, "ignore", ()), *patterns)}
        yield dataclasses.replace(made, **chosen) if _chooses(made) else made


def escaped(name: str) -> str:
    """A glob pattern that fits this name only.

    >>> escaped("layers[0].fc")
    'layers[[]0].fc'
    """
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _chooses(made: Pass) -> bool:
    return {"only", "ignore"} <= {item.name for item in dataclasses.fields(made)}


class Reference(Session):
    """A choice of rewritten sites in the reference interpreter."""

    def __init__(self, steps: Lockstep, chosen: Collection[Part]) -> None:
        super().__init__(Interface.of(steps.found.before))
        self._steps = steps
        self._chosen = chosen
        self._types = dict(zip(steps.before.outputs, steps.before.module.meta["output_types"], strict=True))

    def run_unchecked(self, feeds: Feeds) -> dict[str, Array]:
        found = self._steps.outputs(feeds, self._chosen)
        return {name: leave(value, self._types[name]) for name, value in found.items()}  # type: ignore[misc]  # tensors


@dataclass(frozen=True)
class OnTarget:
    """Makes and opens each model on a backend."""

    before: onnx_ir.Model
    steps: Sequence[Step]
    context: Context
    backend: Backend
    observe: Observer | None = None

    def __call__(self, chosen: Collection[Part]) -> Session:
        """The session of a choice. Raises UnsupportedError for ops that the backend lacks."""
        names = frozenset(name for part in chosen for name in part.names)
        model = self.before.clone()
        made = (step.narrowed(names) for step in self.steps)
        run = [step for step in made if step is not None]
        run_pipeline(Pipeline(steps=tuple(run)), model, self.context, verify=Verify.OFF, undo=False)
        run_pipeline(self.backend.pipeline(), model, self.context, verify=Verify.OFF, undo=False)
        missing = self.backend.supports(model)
        if missing:
            raise unsupported(self.backend.name, missing, "leave --target out to measure on the reference interpreter")
        return self.backend.compile(model)


def outputs_of(session: Session, names: Collection[str]) -> Callable[[Feeds], Mapping[str, Array]]:
    """What a session answers, of these outputs."""
    return lambda feeds: {name: array for name, array in session.run(feeds).items() if name in names}
