"""Models rewritten by some passes alone, before a target has its say: what that costs and what it leaves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir
import tersor
from tersor.backends.catalogue import create
from tersor.driver.latency import Latency
from tersor.driver.pays import Pays
from tersor.examples.data import Feeds
from tersor.examples.source import Source
from tersor.ir.cost import cost
from tersor.ir.shapes import dimension_names
from tersor.ir.site import Kind, computed_sites, sites
from tersor.passes.base import Context
from tersor.passes.pipeline import Pipeline
from tersor.passes.presets import RAISING
from tersor.passes.run import Verify, run_pipeline
from tersor.passes.statistics import Calibration


def raised(source: Source | Path) -> ir.Model:
    """A torch module or a file as the model that passes work on."""
    if isinstance(source, Path):
        model = tersor.load(source)
    else:
        model = tersor.load(source.module, args=source.args, dynamic=source.dynamic)
    run_pipeline(RAISING, model, verify=Verify.OFF)
    return model


def prune(
    model: ir.Model,
    passes: str,
    data: Sequence[Feeds],
    *,
    backend: str = "onnxruntime",
    threads: int = 1,
    paying: bool = False,
) -> tuple[ir.Model, float]:
    """A copy rewritten by these passes, and the seconds that it took.

    backend, threads: what latencies are of. paying: passes are told what is slower there, on the middle batch.
    """
    copied = model.clone()
    start = time.perf_counter()
    if passes:
        target = create(f"{backend}{{threads={threads}}}")
        pays = Pays([target], data[len(data) // 2]) if paying else None
        context = Context(calibration=Calibration(data), latency=Latency([target]), pays=pays)
        for step in Pipeline.of(passes).flat():
            step.apply(copied, context)
    return copied, time.perf_counter() - start


def flops(model: ir.Model, tokens: int = 32) -> int:
    """Of the nodes with weights, for a sentence of so many tokens."""
    every = (*sites(model), *computed_sites(model))
    nodes = {site.node for site in every if site.kind is not Kind.EMBEDDING}
    found = cost(model, dict.fromkeys(dimension_names(model), tokens))
    return sum(each.flops.constant or 0 for each in found.nodes if each.node in nodes)
