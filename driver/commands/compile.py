"""`tersor compile SOURCE -o DIR`: the main job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType

from .. import console
from ..units import change, duration, error, ratio, size
from .options import Data, Json

if TYPE_CHECKING:
    from ..artifact import Artifact
    from ..manifest import CandidateData, Manifest

#: Seconds below which the manifest's rounding leaves nothing.
_TICK = 1e-4

#: So many idle passes of a stage are named; of more the report tells.
_NAMED = 4


def compile(
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="DIR", show_default=False, help="The artifact folder to write."),
    ],
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SOURCE",
            show_default=False,
            help="The model: an .onnx file, a Hugging Face folder, a .pt2 file, or package.module:function returning "
            "module, example inputs and dynamic dimensions. May be left out where --recipe names one.",
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            "--target",
            metavar="TARGET",
            help="A backend, with options as in 'onnxruntime{threads=2}'; cpu compiles for those that are "
            "installed and take seconds, cpu-all for inductor too; they are timed in turns and the fastest is kept.",
        ),
    ] = "cpu",
    passes: Annotated[
        str | None,
        typer.Option(
            "--passes",
            metavar="TEXT",
            show_default=False,
            help="Passes to run, in order, as in 'quantize-dynamic{rows=true}'; `tersor passes` lists them.",
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option("--recipe", metavar="FILE", show_default=False, help="A recipe in YAML; options given here win."),
    ] = None,
    data: Data = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            metavar="MODULE:FUNCTION",
            show_default=False,
            help="Quality: a function from a session to a number, higher is better. Left out, it is fidelity.",
        ),
    ] = None,
    max_drop: Annotated[
        str | None,
        typer.Option(
            "--max-drop",
            metavar="DROP",
            show_default=False,
            help="Largest drop of the metric: relative as in 1%, or absolute as in '0.5 abs'.",
        ),
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Leave lossy passes out.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Each of --passes has to change something; one that does not is an error.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Write a result over its contract or --max-drop too, and say that it is.")
    ] = False,
    size_first: Annotated[
        bool,
        typer.Option(
            "--size-first",
            help="Keep weights in fewer bits also where their kernels are slower on the target than what they replace; "
            "else those are left as they were.",
        ),
    ] = False,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            metavar="DIR",
            show_default=False,
            help="Keep in this folder how far calibration is, and go on from there when stopped and run again. What "
            "was kept is removed once the artifact is written.",
        ),
    ] = None,
    layers: Annotated[
        bool,
        typer.Option(
            "--layers",
            help="Rank layers by the error that each adds, in manifest and report; else those tell how far the output "
            "of each is off.",
        ),
    ] = False,
    verify: Annotated[
        str,
        typer.Option(
            "--verify",
            metavar="fast|each|off",
            help="Hold passes to their contracts: each stretch of exact and each lossy pass, every pass, or none.",
        ),
    ] = "fast",
    json: Json = False,
) -> None:
    """Compile a model into an artifact folder that runs without tersor.

    The folder holds the model, recipe.yaml (reruns this compile), manifest.json and report.html.
    """
    from ..compile import compile as run

    with console.steps("compile") as progress:
        made = run(
            source,
            target=target,
            passes=passes,
            recipe=recipe,
            data=data,
            metric=metric,
            max_drop=max_drop,
            output=output,
            verify=verify,
            exact=exact,
            strict=strict,
            force=force,
            size_first=size_first,
            resume=resume,
            layers=layers,
            observe=progress.say,
            progress=progress.far,
        )
    console.show({"path": made.path, "manifest": made.manifest}, *_summary(made), as_json=json)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= _NAMED else f"{len(names)} passes more"


def _summary(made: Artifact) -> Iterator[RenderableType]:
    from ..idle import idle, why

    manifest = made.manifest
    for stage in manifest["stages"]:
        if stage["passes"]:
            yield console.heading(f"{stage['name']}, {duration(stage['seconds'])}")
            asked = stage["name"] == "passes"
            still = idle(stage["passes"]) if asked else [record for record in stage["passes"] if _idle(record)]
            columns = ("pass", ">fired", ">missed", ">nodes", ">weights", ">time", ">loss")
            yield console.table(*columns, rows=(_pass(record) for record in stage["passes"] if record not in still))
            if asked:
                yield from (
                    f"[bold]{_name(record)} changed nothing[/]: {console.literal(why(record))}" for record in still
                )
            elif still:
                names = list(dict.fromkeys(str(record["pass"]) for record in still))
                yield f"[dim]nothing to do for {console.literal(_listed(names))}[/]"
    if manifest["candidates"][1:]:
        yield console.heading("candidates")
        columns = ("target", "", ">speed (95 % interval)", ">p50", ">on disk", ">loss", "why")
        yield console.table(*columns, rows=map(_candidate, manifest["candidates"]))
    yield console.heading("result")
    yield console.table("", "", rows=_result(made))


def _name(record: Mapping[str, object]) -> str:
    return console.literal(str(record["pass"]))


def _idle(record: Mapping[str, object]) -> bool:
    """Whether a pass found nothing, changed nothing and measured nothing."""
    from ..raised import away

    nodes, held = record["nodes"], record["bytes"]
    still = isinstance(nodes, list) and isinstance(held, list) and nodes[0] == nodes[1] and held[0] == held[1]
    return still and not record["matches"] and not away(record) and record["loss"] is None


def _pass(record: Mapping[str, object]) -> list[object]:
    from ..raised import away

    nodes, held = record["nodes"], record["bytes"]
    assert isinstance(nodes, list)
    assert isinstance(held, list)
    seconds, loss = record["seconds"], record["loss"]
    return [
        record["pass"],
        record["matches"] or "-",
        len(away(record)) or "-",
        _step(f"{nodes[0]:,}", f"{nodes[1]:,}"),
        _step(size(held[0]), size(held[1])),
        duration(seconds) if isinstance(seconds, float | int) and seconds >= _TICK else "<0.1 ms",
        error(loss) if isinstance(loss, float | int) else "",
    ]


def _step(before: str, after: str) -> str:
    return before if before == after else f"{before} -> {after}"


def _candidate(item: CandidateData) -> list[object]:
    speed, latency = item["speed"], item["latency"]
    return [
        item["target"],
        item["status"],
        "" if speed is None else ratio(speed["median"], speed["low"], speed["high"]),
        "" if latency is None else duration(latency["p50"] / 1e3),
        "" if item["bytes"] is None else size(item["bytes"]),
        error(item["loss"]),
        item["reason"],
    ]


def _result(made: Artifact) -> Iterator[tuple[str, str]]:
    from ..raised import raised

    manifest = made.manifest
    before, after = manifest["sizes"]["weights"]
    nodes, target = manifest["sizes"]["nodes"], manifest["target"]
    yield "target", f"{target['text']} ({target['version']})"
    yield "weights", f"{_step(size(before), size(after))}, {change(before, after)}"
    yield "nodes", _step(f"{nodes[0]:,}", f"{nodes[1]:,}")
    yield from ((entry.subject, str(entry)) for entry in raised(manifest))
    yield "loss", _loss(manifest)
    yield from (("over contract", sentence) for sentence in manifest["contract"]["over"])
    yield from _quality(manifest)
    yield "time", duration(manifest["seconds"].get("total", 0.0))
    yield "artifact", f"{made.path}, {size(manifest['sizes']['files'])} of model files"
    yield "report", str(made.path / "report.html")
    yield "run it", f"tersor.open({str(made.path)!r}).run(feeds), feeds by input name: {_inputs(manifest)}"


def _loss(manifest: Manifest) -> str:
    contract = manifest["contract"]
    return f"{error(contract['loss']) or 'not measured'}, promised {contract['text']}"


def _quality(manifest: Manifest) -> Iterator[tuple[str, str]]:
    quality = manifest["quality"]
    if quality["fidelity"] is not None:
        yield "fidelity", f"{quality['fidelity']:.6f} mean cosine to the original ({quality['feeds']['note']})"
    if quality["original"] is not None and quality["compiled"] is not None and quality["metric"] != "fidelity":
        limit = f", limit {quality['max_drop']}" if quality["max_drop"] else ""
        scores = f"{quality['original']:.6g} -> {quality['compiled']:.6g}"
        yield quality["metric"], f"{scores}, drop {error(quality['drop']) or 'not measured'}{limit}"


def _inputs(manifest: Manifest) -> str:
    return ", ".join(
        f"{port['name']} {port['dtype']}{'' if port['shape'] is None else port['shape']}".replace("'", "")
        for port in manifest["interface"]["inputs"]
    )
