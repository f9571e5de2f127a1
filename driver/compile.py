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
from ..passes.report import Report
from ..passes.run import Observer, Verify, run_pipeline
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

    `data`: feeds, or what `load_data` reads; the first 8 batches are what verification runs on (seeded random ones
    without). `verify`: `off`, `fast` (each stretch of exact passes, each lossy pass) or `each`. Raises ContractError or
    PassError that name the pass; `model` is then as it came.
    """
    pipeline, mode = pipeline_of(passes), verify_of(verify)
    feeds = () if data is None else batches(data, Interface.of(model))[0][:BATCHES]
    return run_pipeline(pipeline, model, Context(feeds=feeds), verify=mode, observe=observe)


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
    args: Sequence[object] = (),
    kwargs: Mapping[str, object] | None = None,
    dynamic: Dynamic | None = None,
    observe: Observer | None = None,
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
    verify: as for `run_passes`. args, kwargs, dynamic: as for `load`. observe: told each stage and pass as it starts.

    Raises OptionError, ModelError, UnsupportedError, PassError or ContractError (measured loss over contract or
    max_drop); nothing is written then.
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
        args=args,
        kwargs=kwargs,
        dynamic=dynamic,
    )
    keep = tempfile.TemporaryDirectory(prefix="tersor-") if output is None else None
    path = Path(keep.name) / "artifact" if keep is not None else Path(str(output)).expanduser()
    with atomic_folder(path) as folder:
        manifest, report = run(request, folder, observe)
    return Artifact(path, manifest, report, keep)
