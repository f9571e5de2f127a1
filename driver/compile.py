"""The main job: load, raise, rewrite, verify, lower, time, write."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir

from ..backends.base import Interface
from ..ir.feeds import Feeds
from ..ir.load import Source
from ..ir.save import atomic_folder
from ..passes.base import Context, Pass
from ..passes.checkpoint import Checkpoints
from ..passes.report import Report
from ..passes.run import Observer, Verify, run_pipeline
from ..passes.statistics import Calibration, Progress
from .artifact import Artifact
from .data import batches
from .job import run
from .metric import Metric
from .original import BATCHES
from .recipe import Recipe, pipeline_of, verify_of
from .request import resolve

if TYPE_CHECKING:
    from ..ir.dynamic import Dynamic


def run_passes(
    model: onnx_ir.Model,
    passes: str | Pass | Sequence[object],
    *,
    data: str | Path | Iterable[Feeds] | None = None,
    verify: str | Verify = "fast",
    observe: Observer | None = None,
) -> Report:
    """Apply passes to `model` in place, verified, and report.

    `data`: feeds, or what `load_data` reads: passes calibrate on all of it, verification runs on the first 8 batches
    (on seeded random ones without). `verify`: `off`, `fast` (each stretch of exact passes, each lossy pass) or `each`.
    Raises ContractError or PassError that name the pass; `model` is then as it came.
    """
    pipeline, mode = pipeline_of(passes), verify_of(verify)
    context = Context()
    if data is not None:
        feeds = batches(data, Interface.of(model))[0]
        context = Context(feeds=feeds[:BATCHES], calibration=Calibration(feeds))
    return run_pipeline(pipeline, model, context, verify=mode, observe=observe)


def compile(
    source: Source | None,
    *,
    target: str = "cpu",
    passes: str | Pass | Sequence[object] | None = None,
    recipe: str | Path | Recipe | None = None,
    data: str | Path | Iterable[Feeds] | None = None,
    metric: str | Metric | None = None,
    max_drop: str | float | None = None,
    output: str | Path | None = None,
    verify: str | Verify = "fast",
    exact: bool = False,
    strict: bool = False,
    force: bool = False,
    size_first: bool = False,
    resume: str | Path | None = None,
    layers: bool = False,
    args: Sequence[object] = (),
    kwargs: Mapping[str, object] | None = None,
    dynamic: Dynamic | None = None,
    observe: Observer | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Turn a model into an artifact that runs on `target`.

    source: what `load` takes; None takes the recipe's. It is left as it is.
    target: a backend, `onnxruntime{threads=2}`; `cpu`: onnxruntime, openvino and torch where installed, the fastest in
    contract kept; `cpu-all`: inductor as well.
    passes: run between raising and lowering; None runs none. exact: leave lossy passes out.
    recipe: a YAML file or `Recipe`; an argument that is given (not its default) wins over what the recipe says.
    data: feeds, or what `load_data` reads: every fifth batch is held out for measuring quality, the rest calibrates.
    metric: `module:function` or a function, called with a session, returning a float (higher is better), evaluated on
    original and compiled; without, quality is fidelity: the mean cosine between the outputs of the two.
    max_drop: how much of it may be lost: `1%`, 0.01, or `0.5 abs`.
    output: the artifact folder, absent or empty or an earlier artifact, written atomically; None is a temporary one.
    strict: each of `passes` has to change something. force: write a result over its contract or max_drop too; manifest
    and report say of it that it is, and by how much. size_first: keep weights in fewer bits where their kernels are
    slower on the target, too; else such a site stays as it was.
    layers: rank the sites that lossy passes rewrote by the error that each adds, for manifest and report; without it
    they say of each how far its own output is off.
    resume: a folder that keeps how far calibration is; the same compile goes on from there after it was stopped. What
    was kept is removed once the artifact is written.
    verify: as for `run_passes`. args, kwargs, dynamic: as for `load`. observe: told each stage and pass as it starts.
    progress: told batches done, and of how many, while data are run through the model to calibrate.

    Raises OptionError, ModelError, UnsupportedError, PassError, ContractError (measured loss over contract or max_drop)
    or UnchangedError (`strict`); nothing is written then.
    """
    request = resolve(
        source,
        target=target,
        passes=passes,
        recipe=recipe,
        data=data,
        metric=metric,
        max_drop=max_drop,
        verify=verify,
        exact=exact,
        strict=strict,
        force=force,
        size_first=size_first,
        resume=resume,
        args=args,
        kwargs=kwargs,
        dynamic=dynamic,
    )
    keep = tempfile.TemporaryDirectory(prefix="tersor-") if output is None else None
    path = Path(keep.name) / "artifact" if keep is not None else Path(str(output)).expanduser()
    checkpoints = None if request.resume is None else Checkpoints(request.resume)
    with atomic_folder(path) as folder:
        manifest, report = run(request, folder, observe, progress, layers=layers, checkpoints=checkpoints)
    if checkpoints is not None:
        checkpoints.clear()
    return Artifact(path, manifest, report, keep)
