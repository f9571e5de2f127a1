"""Candidates for a target: lower and write each, hold it to the original, time them in pairs, keep the fastest."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir

from ..backends.base import Backend, Interface, Session
from ..ir.errors import ContractError, TersorError, UnsupportedError, colourless, unsupported
from ..ir.feeds import Feeds
from ..passes.base import Context, Contract
from ..passes.report import Report, Size
from ..passes.run import Observer, Verify, run_pipeline
from ..passes.syntax import Step, to_text
from ..passes.verify import worst_loss
from .manifest import CandidateData
from .original import Recorded, hold
from .timing import Contestant, Interval, Timings, paired

#: How long the candidates of a group target are timed against each other, unless the recipe says otherwise.
TIMING_SECONDS = 0.5

#: How many times slower than the fastest a candidate may be and still run the longer heat, of at least so many pairs.
HOPELESS = 3.0
PAIRS = 5

_STATUS: Mapping[type[Exception], str] = {UnsupportedError: "unsupported", ContractError: "over-contract"}


@dataclass(frozen=True)
class Heats:
    """What was timed, the most telling first."""

    timings: tuple[Timings, ...] = ()

    def of(self, *names: str) -> Timings | None:
        """The first in which all of `names` took part."""
        return next((one for one in self.timings if all(name in one.seconds for name in names)), None)


@dataclass
class Candidate:
    """One backend on its way through a compile. An `error` takes it out of the race.

    loss: against the original, in the contract's metric. quality: its metric, or its fidelity where there is none.
    over: what an error would have said of losses that were let through.
    """

    backend: Backend
    folder: Path
    lowering: Report = Report()
    size: Size | None = None
    interface: Interface | None = None
    session: Session | None = None
    loss: float | None = None
    fidelity: float | None = None
    quality: float | None = None
    seconds: float = 0.0
    status: str = "ready"
    error: Exception | None = None
    over: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The backend as a target names it: `onnxruntime{threads=2}`."""
        return to_text([Step(self.backend.name, options_of(self.backend))])

    @property
    def version(self) -> str:
        return self.backend.version() or "?"

    def fail(self, error: Exception) -> None:
        """Take the candidate out of the race."""
        self.status = _STATUS.get(type(error), "failed")
        self.error = error
        self.session = None

    def lower(self, model: onnx_ir.Model, context: Context, verify: Verify, observe: Observer | None) -> None:
        """Lower `model` in place and write it into the candidate's folder. Raises what the backend does."""
        start = time.perf_counter()
        self.lowering = run_pipeline(self.backend.pipeline(), model, context, verify=verify, observe=observe)
        missing = self.backend.supports(model)
        if missing:
            raise unsupported(self.backend.name, missing, "choose another target, or a pass that rewrites these ops")
        if observe is not None:
            observe(f"write {self.text}")
        self.folder.mkdir(parents=True)
        self.backend.write(model, self.folder)
        self.size, self.interface = Size.of(model), Interface.of(model)
        self.seconds += time.perf_counter() - start

    def open(self, recorded: Recorded, contract: Contract, observe: Observer | None, *, force: bool = False) -> None:
        """Open what `lower` wrote and hold it to the original's answers. Raises ContractError over contract, unless
        `force` lets it through.
        """
        assert self.interface is not None  # lower() ran
        if observe is not None:
            observe(f"open {self.text}")
        start = time.perf_counter()
        self.session = self.backend.open(self.folder, self.interface)
        if recorded.feeds:
            comparison = recorded.against(self.session)
            loss = worst_loss(contract, comparison)
            self.loss = loss if math.isfinite(loss) else None
            try:
                hold(contract, comparison, self.text, self.session, recorded.feeds)
            except ContractError as error:
                if not force:
                    raise
                self.over.append(str(error))
        self.seconds += time.perf_counter() - start

    def to_dict(self, kept: Candidate, heats: Heats) -> CandidateData:
        """As written to `manifest.json`."""
        timings = heats.of(kept.text, self.text)
        speed = None if timings is None else timings.ratio(kept.text, self.text)
        latency = None if timings is None else timings.latency(self.text)
        return {
            "target": self.text,
            "version": self.version,
            "status": self.status,
            "reason": self._reason(speed),
            "loss": self.loss,
            "bytes": sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file()) or None,
            "latency": None
            if latency is None
            else {"p50": latency.p50 * 1e3, "p90": latency.p90 * 1e3, "p99": latency.p99 * 1e3},
            "speed": None if speed is None else {"median": speed.median, "low": speed.low, "high": speed.high},
            "seconds": round(self.seconds, 4),
        }

    def _reason(self, speed: Interval | None) -> str | None:
        if self.error is not None:
            return describe(self.error)
        if self.over:
            return " ".join(["let through:"] * (self.status == "kept") + self.over)
        if self.status == "slower" and speed is not None:
            return f"runs at {speed} of the speed of the kept one"
        return None


def build(
    backends: Sequence[Backend],
    stock: list[onnx_ir.Model],
    folder: Path,
    lower: Callable[[Candidate, onnx_ir.Model], None],
    check: Callable[[Candidate], None],
) -> list[Candidate]:
    """Every backend's candidate: lowered and written, then opened and checked, one after the other.

    `stock` holds the model; it is taken out for the last candidate, so that its memory is free before that one's
    session opens. A candidate that fails is kept with its error; where all fail, that is the error raised.
    """
    made: list[Candidate] = []
    for position, backend in enumerate(backends):
        candidate = Candidate(backend, folder / f"{position}-{backend.name}")
        made.append(candidate)
        model = stock.pop() if position == len(backends) - 1 else stock[0].clone()
        try:
            lower(candidate, model)
            del model
            # Nodes and values refer to each other: only the collector frees a model.
            gc.collect()
            check(candidate)
        except TersorError as error:
            candidate.fail(error)
        except Exception as error:
            if len(backends) == 1:
                raise
            candidate.fail(error)
    if all(candidate.error is not None for candidate in made):
        raise failure(made)
    return made


def ranked(candidates: Sequence[Candidate], feeds: Sequence[Feeds], seconds: float) -> tuple[list[Candidate], Heats]:
    """The open candidates, fastest first by paired ratios; nothing is timed where there is only one.

    All run a short heat; those within HOPELESS of its fastest run a longer one, which a slow one would eat up.
    """
    ready = [candidate for candidate in candidates if candidate.session is not None]
    if len(ready) < 2:
        return ready, Heats()
    first = paired(_contestants(ready), feeds, rounds=1000, budget_seconds=seconds / 2)
    order = _ordered(ready, first)
    finalists = [one for one in order if first.ratio(order[0].text, one.text).median * HOPELESS >= 1]
    if len(finalists) < 2:
        return order, Heats((first,))
    last = paired(_contestants(finalists), feeds, rounds=1000, budget_seconds=seconds, least=PAIRS)
    return [*_ordered(finalists, last), *order[len(finalists) :]], Heats((last, first))


def _contestants(candidates: Sequence[Candidate]) -> dict[str, Contestant]:
    return {one.text: one.session.run_unchecked for one in candidates if one.session is not None}


def _ordered(candidates: Sequence[Candidate], timings: Timings) -> list[Candidate]:
    return sorted(candidates, key=lambda one: -timings.ratio(candidates[0].text, one.text).median)


def failure(candidates: Sequence[Candidate]) -> Exception:
    """The error of a compile in which no candidate is left."""
    errors = [candidate.error for candidate in candidates if candidate.error is not None]
    if len(errors) == 1:
        return errors[0]
    kinds = {type(error) for error in errors}
    kind = next((kind for kind in (ContractError, UnsupportedError) if kind in kinds), UnsupportedError)
    lines = [f"{c.text}: {describe(c.error)}" for c in candidates if c.error is not None]
    return kind("\n  ".join(["no candidate is left:", *lines]))


def describe(error: Exception) -> str:
    """An error in one line."""
    text = " ".join(colourless(str(error)).split())
    return text if isinstance(error, TersorError) else f"{type(error).__name__}: {text}"


def options_of(backend: Backend) -> dict[str, object]:
    """The options of a backend that differ from their defaults."""
    kind = type(backend)
    pairs = {name: getattr(backend, name) for name in getattr(kind, "__dataclass_fields__", {})}
    plain = kind()
    return {name: value for name, value in pairs.items() if value != getattr(plain, name)}
