"""One compile, from a resolved request to the files of an artifact."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx_ir

from ..backends.base import Interface
from ..ir.errors import ContractError
from ..ir.load import load
from ..ir.provenance import settle
from ..ir.runner import trial_feeds
from ..ir.widened import coarsest
from ..passes.base import Context, Contract, Exact, Lossy
from ..passes.checkpoint import Checkpoints
from ..passes.pipeline import Pipeline, title
from ..passes.presets import RAISING
from ..passes.report import Report, Size
from ..passes.run import Observer, Verify, run_pipeline
from ..passes.statistics import Calibration, Progress
from ..passes.verify import allowed
from . import data, host, idle, manifest, origin, select
from . import recipe as recipes
from .artifact import finish, list_files
from .data import Split
from .latency import Latency
from .manifest import ContractData, FeedsData, LayersData, Manifest, StageData
from .original import BATCHES, Original, Recorded, combined, record
from .pays import Pays
from .quality import Quality
from .renumbered import feeds_after, recorded_after
from .request import Request
from .select import Candidate
from .stages import halves


@dataclass
class Clock:
    """Seconds by stage; `observe` is told each as it starts."""

    observe: Observer | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        if self.observe is not None:
            self.observe(stage)
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def rounded(self) -> dict[str, float]:
        """Each stage and their total."""
        return {name: round(taken, 4) for name, taken in (*self.seconds.items(), ("total", sum(self.seconds.values())))}


def run(
    request: Request,
    folder: Path,
    observe: Observer | None,
    progress: Progress | None = None,
    *,
    layers: bool = False,
    checkpoints: Checkpoints | None = None,
) -> tuple[Manifest, Report]:
    """Compile into `folder`, which then holds a whole artifact. Raises what `compile` does."""
    clock = Clock(observe)
    with clock("load"):
        model = load(request.source, args=request.args, kwargs=request.kwargs, dynamic=request.dynamic)
        source = origin.describe(request.source, model)
        if model is request.source:
            model = model.clone()
    before = Size.of(model)
    with clock("data"):
        feeds = _feeds(request, model)
    with clock("original"):
        recorded, quality = _standard(request, model, feeds)
    # kept for passes that change what is asked and answered; weights are shared
    original = model.clone() if any(step.changes_signature for step in request.passes.flat()) else None
    context = Context()
    if request.data is not None:
        calibration = Calibration(feeds.calibration, progress, checkpoints=checkpoints)
        context = Context(feeds=feeds.calibration[:BATCHES], calibration=calibration, latency=Latency(request.backends))
    with clock("raise"):
        raising = run_pipeline(RAISING, model, context, verify=request.verify, observe=observe)
    with clock("passes"):
        asked = context if request.size_first else _asking(context, request, feeds, observe)
        exact, lossy = halves(request.passes)
        rewriting = run_pipeline(
            Pipeline(steps=exact), model, asked, verify=request.verify, force=request.force, observe=observe
        )
        settle(model)
        if rewriting.renumbered:
            feeds, context = feeds_after(feeds, rewriting.renumbered), context.after(rewriting.renumbered)
            asked = context if request.size_first else _asking(context, request, feeds, observe)
        plain = model.clone() if lossy and (layers or request.verify is not Verify.OFF) else None
        try:
            losing = run_pipeline(
                Pipeline(steps=lossy), model, asked, verify=request.verify, force=request.force, observe=observe
            )
        except ContractError as error:
            error.add_note("`tersor bench SOURCE --layers --passes TEXT` tells which layers lose how much")
            raise
        feeds, context = feeds_after(feeds, losing.renumbered), context.after(losing.renumbered)
        for cut in losing.renumbered:
            plain = None if plain is None else cut.reference(plain)
        rewriting += losing
    if original is not None:
        cuts, random = rewriting.renumbered, request.data is None
        recorded = recorded_after(recorded, cuts, original, promised=True)
        quality = replace(quality, recorded=recorded_after(quality.recorded, cuts, original, promised=random))
    del original
    if request.strict:
        idle.refuse(_requested(request, rewriting))
    lost: LayersData = {"feeds": feeds.note, "batches": 0, "whole": None, "rows": []}
    if plain is not None:
        with clock("layers"):
            # the interpreter, and with it torch, is loaded where something is measured
            from .layer_data import measured

            note = "held-out data" if request.data is not None and feeds.held_out else feeds.note
            lost = measured(plain, model, lossy, asked, feeds.quality, note, full=layers)
    del plain

    def lower(candidate: Candidate, lowered: onnx_ir.Model) -> None:
        candidate.lower(lowered, context, request.verify, observe)

    def check(candidate: Candidate) -> None:
        contract = _contract(raising + rewriting + candidate.lowering, recorded.coarse)
        candidate.open(recorded, contract, observe, force=request.force)
        if candidate.session is not None:
            candidate.fidelity = quality.fidelity(candidate.session)

    stock = [model]
    del model
    with clock("lower"):
        candidates = select.build(request.backends, stock, folder, lower, check)
    with clock("time"):
        ready, heats = select.ranked(candidates, feeds.calibration[:BATCHES], request.timing_seconds)
    with clock("quality"):
        kept = quality.choose(ready, candidates, force=request.force)
    entries = [candidate.to_dict(kept, heats) for candidate in candidates]
    report = raising + rewriting + kept.lowering
    assert kept.interface is not None  # it was lowered
    assert kept.size is not None
    with clock("write"):
        for candidate in candidates:
            candidate.session = None
        _unpack(kept.folder, folder, [candidate.folder for candidate in candidates])
        (folder / recipes.NAME).write_text(request.recipe.text(notes=request.notes), encoding="utf-8")
        for name, content in rewriting.files.items():
            (folder / name).write_bytes(content)
        files = list_files(folder, companions=rewriting.files)
    made: Manifest = {
        "schema": manifest.SCHEMA,
        "tersor": importlib.metadata.version("tersor"),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "source": source,
        "target": {
            "requested": request.target,
            "text": kept.text,
            "backend": kept.backend.name,
            "options": select.options_of(kept.backend),
            "version": kept.version,
            "needs": kept.backend.needs(folder),
        },
        "host": host.host(),
        "versions": host.versions(),
        "interface": manifest.interface_data(kept.interface),
        "contract": _contract_data(_contract(report, recorded.coarse), kept.loss, [*_over(report), *kept.over]),
        "stages": [
            _stage("raise", raising, clock.seconds["raise"]),
            _stage("passes", rewriting, clock.seconds["passes"]),
            _stage("lower", kept.lowering, kept.seconds),
        ],
        "candidates": entries,
        "sizes": {
            "nodes": [before.nodes, kept.size.nodes],
            "weights": [before.bytes, kept.size.bytes],
            "files": sum(file["bytes"] for file in files if file["role"] == "model"),
        },
        "quality": quality.to_dict(kept, _feeds_data(request, feeds, quality)),
        "layers": lost,
        "seconds": clock.rounded(),
        "files": files,
    }
    finish(folder, made)
    return made, report


def _feeds(request: Request, model: onnx_ir.Model) -> Split:
    """The user's data, split; else seeded random feeds, other ones for quality than for verification."""
    if request.data is not None:
        batches, more = data.batches(request.data, Interface.of(model))
        return data.split(batches, more=more)
    random = [trial_feeds(model, seed=seed) for seed in (0, 1)]
    return Split(random[:1], random[1:], True, "no data was given: seeded random feeds")


def _asking(context: Context, request: Request, feeds: Split, observe: Observer | None) -> Context:
    """The context in which passes leave alone what their kernels make slower on the target."""
    return replace(context, pays=Pays(request.backends, feeds.calibration[0], observe=observe))


def _requested(request: Request, report: Report) -> list[dict[str, object]]:
    """The records of the passes that were asked for, without the upgrade that one of them needed."""
    asked = {title(step) for step in request.passes.flat()}
    return [entry.to_dict() for entry in report.passes if entry.text in asked]


def _standard(request: Request, model: onnx_ir.Model, feeds: Split) -> tuple[Recorded, Quality]:
    """What the original answers and how good it is. Its session is closed on return."""
    verifies = request.verify is not Verify.OFF
    if not verifies and request.metric is None and request.max_drop is None:
        return Recorded(), Quality()
    session = Original(model)
    wanted = verifies or request.metric is None
    recorded = replace(record(session, feeds.calibration), coarse=coarsest(model)) if verifies else Recorded()
    held_out = record(session, feeds.quality) if wanted else Recorded()
    return recorded, Quality.of(session, held_out, request.metric, request.max_drop)


def _contract(report: Report, coarse: float) -> Contract:
    """What the passes promise together; a lossy one that was seen to do nothing promises nothing."""
    idle = [isinstance(entry.contract, Lossy) and entry.loss == 0.0 and not entry.changed for entry in report.passes]
    kept = [entry.contract for entry, still in zip(report.passes, idle, strict=True) if not still]
    return combined(kept, coarse)


def _over(report: Report) -> list[str]:
    """What passes that were let through over their contracts lost."""
    return [entry.over for entry in report.passes if entry.over]


def _contract_data(contract: Contract, loss: float | None, over: list[str]) -> ContractData:
    metric = contract.metric if isinstance(contract, Lossy) else "relative-l2"
    return {
        "text": str(contract),
        "exact": isinstance(contract, Exact),
        "metric": metric,
        "limit": allowed(contract),
        "loss": loss,
        "over": over,
    }


def _stage(name: str, report: Report, seconds: float) -> StageData:
    return {"name": name, "seconds": round(seconds, 4), "passes": report.to_dict()}


def _feeds_data(request: Request, feeds: Split, quality: Quality) -> FeedsData:
    return {
        "source": "random" if request.data is None else "data",
        "calibration": min(len(feeds.calibration), BATCHES),
        "quality": len(quality.recorded.feeds),
        "held_out": feeds.held_out,
        "note": f"{feeds.note}; at most {BATCHES} of each were read",
    }


def _unpack(kept: Path, folder: Path, made: Sequence[Path]) -> None:
    """Move the files of the kept candidate up into the artifact's folder and remove those of the others."""
    for entry in kept.iterdir():
        entry.rename(folder / entry.name)
    for other in made:
        shutil.rmtree(other, ignore_errors=True)
