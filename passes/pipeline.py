"""A pipeline is text, data and itself a pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import onnx_ir as ir

from . import catalogue, syntax
from .base import Context, Exact, Finding, Outcome, Pass
from .renumbering import Renumbering


@dataclass(frozen=True, kw_only=True)
class Pipeline(Pass):
    """Passes in order; steps may be pipelines themselves."""

    name: ClassVar[str] = "pipeline"
    steps: tuple[Pass, ...] = ()
    label: str = ""

    @classmethod
    def of(cls, source: str | Pass | Sequence[object] | None) -> Pipeline:
        """From text, a pass, a list of passes and steps in YAML form, or None for the empty pipeline.

        >>> Pipeline.of("fold-constants,(drop-dead-code)").text()
        'fold-constants,(drop-dead-code)'
        """
        if source is None:
            return cls()
        if isinstance(source, Pipeline):
            return source
        if isinstance(source, Pass):
            return cls(steps=(source,))
        if not isinstance(source, str) and any(isinstance(item, Pass) for item in source):
            return cls(steps=tuple(item if isinstance(item, Pass) else _only(item) for item in source))
        return cls(steps=tuple(_make(step) for step in syntax.from_yaml(source)))

    def text(self) -> str:
        """The text that `of` reads back."""
        return syntax.to_text(self._parsed())

    def data(self) -> list[object]:
        """The YAML form that `of` reads back."""
        return syntax.to_yaml(self._parsed())

    def flat(self) -> Iterator[Pass]:
        """The passes in the order they run, nesting dissolved."""
        for step in self.steps:
            if isinstance(step, Pipeline):
                yield from step.flat()
            else:
                yield step

    def exact(self) -> Pipeline:
        """This pipeline without its lossy passes."""
        kept = (step.exact() if isinstance(step, Pipeline) else step for step in self.steps)
        return replace(self, steps=tuple(step for step in kept if _stays(step)))

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        """Run every pass, unverified; `run.run_pipeline` is the verified way."""
        found: list[Finding] = []
        files: dict[str, bytes] = {}
        renumbered: list[Renumbering] = []
        for step in self.flat():
            made = step.apply(model, context.after(renumbered))
            found += made.findings
            files |= made.files
            renumbered += made.renumbered
        return Outcome(tuple(found), files=files, renumbered=tuple(renumbered))

    def _parsed(self) -> tuple[syntax.Step, ...]:
        return tuple(_step(made) for made in self.steps)


def text_of(made: Pass) -> str:
    """One pass as pipeline text, with the options that differ from their defaults."""
    return syntax.to_text([_step(made)])


def title(made: Pass) -> str:
    """A pass as reports speak of it: its own name and options, wherever its class lives."""
    return syntax.to_text([syntax.Step(made.name, made.options())])


def _step(made: Pass) -> syntax.Step:
    if isinstance(made, Pipeline):
        return syntax.Step(made.label, steps=made._parsed())
    return syntax.Step(catalogue.spell(made), made.options())


def _make(step: syntax.Step) -> Pass:
    if step.steps is not None:
        return Pipeline(steps=tuple(_make(inner) for inner in step.steps), label=step.name)
    return catalogue.create(step)


def _only(item: object) -> Pass:
    (step,) = syntax.from_yaml([item])
    return _make(step)


def _stays(step: Pass) -> bool:
    """Whether `exact` keeps a step: an exact pass, or a pipeline with something left in it."""
    return bool(step.steps) if isinstance(step, Pipeline) else isinstance(step.contract, Exact)
