"""`tersor bench A B ...`: which is faster, and by how much."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from .. import console
from ..units import amount, duration, error, plural, ratio, size
from .options import Data, Dimensions, Json, Seed, dimensions

if TYPE_CHECKING:
    from ..bench import Bench, Row


def bench(
    contestants: Annotated[
        list[str],
        typer.Argument(
            metavar="A B ...",
            show_default=False,
            help="Artifact folders, or .onnx files as FILE@onnxruntime (the default), FILE@openvino or FILE@torch: "
            "the plain runtime, without tersor. The first is what the others are compared with.",
        ),
    ],
    data: Data = None,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, show_default=False, help="Short for --dims batch=SIZE.")
    ] = None,
    dims: Dimensions = None,
    threads: Annotated[int, typer.Option("--threads", min=0, help="Threads of each; 0 leaves it to the runtime.")] = 0,
    seconds: Annotated[float, typer.Option("--seconds", min=0.05, help="Seconds to spend on timing, in all.")] = 10.0,
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="Measure memory and load time, in a process for each.")
    ] = True,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Time contestants in turns on the same feeds: speed relative to the first, with 95 % intervals.

    Also latency percentiles, throughput, bytes on disk, load time, peak memory, and how far the answers are apart.
    """
    from ..bench import bench as run

    sizes = dimensions(dims, batch)
    with console.steps("bench") as progress:
        found = run(
            contestants,
            data=data,
            dimensions=sizes,
            threads=threads,
            seconds=seconds,
            seed=seed,
            memory=memory,
            observe=progress.say,
        )
    columns = ("", ">speed (95 % interval)", ">p50", ">p90", ">p99", ">samples/s", ">on disk", ">load", ">memory")
    console.show(
        found,
        console.table(*columns, ">relative L2", "runtime", rows=map(_cells, found.rows)),
        *_faults(found),
        console.literal(_footnote(found)),
        as_json=json,
    )


def _cells(row: Row) -> list[object]:
    speed, latency = row.speed, row.latency
    return [
        row.label,
        "failed" if speed is None else ratio(speed.median, speed.low, speed.high),
        *(("", "", "") if latency is None else map(duration, (latency.p50, latency.p90, latency.p99))),
        "" if row.throughput is None else amount(round(row.throughput, 1)),
        "" if row.bytes is None else size(row.bytes),
        "" if row.load_seconds is None else duration(row.load_seconds),
        "" if row.memory_bytes is None else size(row.memory_bytes),
        error(row.loss),
        f"{row.runtime} {row.version or 'not installed'}",
    ]


def _faults(found: Bench) -> Iterator[str]:
    for row in found.rows:
        if row.error is not None:
            yield console.literal(f"\n{row.label} failed: {row.error}")


def _footnote(found: Bench) -> str:
    shapes = ", ".join(f"{name} {list(shape)}" for name, shape in found.shapes.items())
    feeds = f"{plural(found.batches, 'batch')} of {found.feeds} feeds ({shapes})"
    threads = f"{found.threads} threads" if found.threads else "threads as each runtime chooses"
    return (
        f"\nSpeed: times as fast as the first, median of {plural(found.pairs, 'paired call')}; {feeds}; {threads}.\n"
        f"{found.host['cpu']}, {plural(found.host['cores'], 'core')}; seed {found.seed}."
    )
