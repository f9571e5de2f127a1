"""`tersor bench A B ...`: which is faster, and by how much."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from ...ir.errors import OptionError
from .. import console
from ..units import amount, duration, error, plural, ratio, size
from .layers import shown
from .options import Data, Dimensions, Json, Seed, dimensions

if TYPE_CHECKING:
    from ..bench import Bench, Row

_LAYERS = "Which layer broke"

#: Lines shown where nothing else is asked for.
_LIMIT = 20


class _Sort(enum.Enum):
    ALONE = "alone"
    PREFIX = "prefix"
    LOCAL = "local"


class _By(enum.Enum):
    SITE = "site"
    BLOCK = "block"
    KIND = "kind"


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
    layers: Annotated[
        bool,
        typer.Option(
            "--layers",
            rich_help_panel=_LAYERS,
            help="Instead of timing, rank the sites that lossy passes rewrote by the error that each adds. A is an "
            "artifact, whose recipe names source, passes and data, or a SOURCE with --passes.",
        ),
    ] = False,
    passes: Annotated[
        str | None,
        typer.Option(
            "--passes",
            metavar="TEXT",
            show_default=False,
            rich_help_panel=_LAYERS,
            help="Passes to rank sites for, as in 'quantize-weights{bits=4}'; else those of the artifact.",
        ),
    ] = None,
    sort: Annotated[
        _Sort | None,
        typer.Option(
            "--sort",
            show_default=_Sort.ALONE.value,
            rich_help_panel=_LAYERS,
            help="Worst first by the error with only this site rewritten, by what it adds to those before it, or by "
            "that of its own output.",
        ),
    ] = None,
    by: Annotated[
        _By | None,
        typer.Option(
            "--by",
            show_default=_By.SITE.value,
            rich_help_panel=_LAYERS,
            help="What is ranked: each site, or all of a block or kind.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="TARGET",
            show_default=False,
            rich_help_panel=_LAYERS,
            help="Measure on this backend, which compiles the model anew for each site; else on the reference "
            "interpreter.",
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            metavar="MODULE:FUNCTION",
            show_default=False,
            rich_help_panel=_LAYERS,
            help="Also a function from a session to a number, with only this site rewritten.",
        ),
    ] = None,
    outputs: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            metavar="NAME",
            show_default=False,
            rich_help_panel=_LAYERS,
            help="The output whose error counts; may be given again. The worst of all when left out.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            min=0,
            show_default=str(_LIMIT),
            rich_help_panel=_LAYERS,
            help="Lines shown; 0 shows all.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Time contestants in turns on the same feeds: speed relative to the first, with 95 % intervals.

    Also latency percentiles, throughput, bytes on disk, load time, peak memory, and how far the answers are apart.
    With --layers: which layer broke.
    """
    sizes = dimensions(dims, batch)
    if layers:
        if len(contestants) != 1:
            raise OptionError(f"--layers looks into one model, found {len(contestants)}: leave the others out")
        from ..diagnosis import diagnose

        with console.steps("layers") as progress:
            ranked = diagnose(
                contestants[0],
                passes=passes,
                data=data,
                dimensions=sizes,
                metric=metric,
                target=target,
                outputs=outputs or (),
                by=(by or _By.SITE).value,
                sort=(sort or _Sort.ALONE).value,
                seed=seed,
                observe=progress.say,
            )
        console.show(ranked, *shown(ranked, _LIMIT if limit is None else limit), as_json=json)
        return
    if passes or target or metric or outputs:
        raise OptionError("--passes, --target, --metric and --output go with --layers; an artifact has its own")
    if sort is not None or by is not None or limit is not None:
        raise OptionError("--sort, --by and --limit go with --layers; contestants are listed as they are given")
    from ..bench import bench as run

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
