"""`report.html`: one page that says what a compile did, with nothing to fetch from anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..idle import idle, why
from ..manifest import CandidateData, Manifest, PortData
from ..raised import away, raised
from ..units import change, duration, error, plural, ratio, size
from .choices import choices
from .layers import layers
from .markup import Bar, Markup, bars, details, markup, paragraph, section, table
from .style import STYLE

#: How many places of one kind of miss are written out.
_PLACES = 40

_VERDICTS: Mapping[str, str] = {
    "kept": "kept",
    "slower": "slower",
    "over-contract": "over its contract",
    "over-max-drop": "over max drop",
    "unsupported": "unsupported",
    "failed": "failed",
}


def render(manifest: Manifest) -> str:
    """The page for a manifest. All of its text is escaped; light or dark follows the reader's system."""
    name = manifest["source"]["name"]
    parts = (
        _summary(manifest),
        _sizes(manifest),
        _candidates(manifest),
        _passes(manifest),
        _quality(manifest),
        choices(manifest),
        layers(manifest["layers"]),
        _interface(manifest),
        _files(manifest),
        _circumstances(manifest),
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{markup(name)} - tersor</title><style>{STYLE}</style></head><body><main>"
        f"{''.join(parts)}</main></body></html>\n"
    )


def _summary(manifest: Manifest) -> Markup:
    sizes, target, contract = manifest["sizes"], manifest["target"], manifest["contract"]
    before, after = sizes["weights"]
    fidelity = manifest["quality"]["fidelity"]
    kept = next((item for item in manifest["candidates"] if item["status"] == "kept"), None)
    tiles = [
        ("weights", size(after), f"{change(before, after)}, from {size(before)}"),
        ("nodes", f"{sizes['nodes'][1]:,}", f"from {sizes['nodes'][0]:,}"),
        ("loss", error(contract["loss"]) or "not measured", f"{contract['metric']}, limit {contract['limit']:g}"),
    ]
    if fidelity is not None:
        tiles.append(("fidelity", f"{fidelity:.6f}", "mean cosine to the original"))
    if kept is not None and kept["latency"] is not None:
        tiles.append(("latency", duration(kept["latency"]["p50"] / 1e3), "median of one call"))
    tiles.append(("compiled in", duration(manifest["seconds"].get("total", 0.0)), _moment(manifest["created"])))
    drawn = "".join(
        f'<div class="tile"><span>{markup(label)}</span><b>{markup(value)}</b><span>{markup(note)}</span></div>'
        for label, value, note in tiles
    )
    return Markup(
        f"<header><h1>{markup(manifest['source']['name'])}</h1><p>{_sentence(manifest)}</p>{_over(manifest)}"
        f'<div class="tiles">{drawn}</div>'
        f'<pre>session = tersor.open("this folder")   # {markup(target["text"])}, {markup(target["version"])}</pre>'
        f"</header>"
    )


def _sentence(manifest: Manifest) -> Markup:
    before, after = manifest["sizes"]["weights"]
    kind = "exactly" if manifest["contract"]["exact"] else "with loss"
    fired = sum(_number(record["matches"]) > 0 for stage in manifest["stages"] for record in stage["passes"])
    return markup(
        f"Compiled {kind} for {manifest['target']['text']} by tersor {manifest['tersor']}: {plural(fired, 'pass')} "
        f"fired, {size(before)} of weights became {size(after)}. Contract: {manifest['contract']['text']}."
    )


def _over(manifest: Manifest) -> Markup:
    """What was let through although it is over a contract or max_drop."""
    told = (
        f'<p class="failed">Over contract, let through: {markup(text)}</p>' for text in manifest["contract"]["over"]
    )
    return Markup("".join(told))


def _sizes(manifest: Manifest) -> Markup:
    before, after = manifest["sizes"]["weights"]
    files = manifest["sizes"]["files"]
    chart = bars(
        "sizes",
        [
            Bar("weights before", before, size(before)),
            Bar("weights after", after, f"{size(after)}, {change(before, after)}", kind="good"),
            Bar("model files", files, size(files), kind="good"),
        ],
    )
    return section("Size", chart)


def _candidates(manifest: Manifest) -> Markup:
    rows = [_candidate(item) for item in manifest["candidates"]]
    timed = [item for item in manifest["candidates"] if item["speed"] is not None]
    chart = bars("speed relative to the kept candidate", list(map(_speed_bar, timed)), mark=1.0) if timed[1:] else ""
    head = (
        "target",
        "version",
        "",
        ">speed (95 % interval)",
        ">p50",
        ">p90",
        ">p99",
        ">loss",
        ">size",
        ">made in",
        "why",
    )
    note = "Speed is relative to the kept candidate, timed in interleaved pairs; above 1 is faster."
    return section("Candidates", chart, table(head, rows), paragraph(note) if timed else "")


def _candidate(item: CandidateData) -> Sequence[object]:
    speed, latency = item["speed"], item["latency"]
    percentiles = ["", "", ""] if latency is None else [latency["p50"], latency["p90"], latency["p99"]]
    status = Markup(
        f'<span class="{markup(item["status"])}">{markup(_VERDICTS.get(item["status"], item["status"]))}</span>'
    )
    return (
        item["target"],
        item["version"],
        status,
        "" if speed is None else ratio(speed["median"], speed["low"], speed["high"]),
        *(duration(value / 1e3) if isinstance(value, float | int) else "" for value in percentiles),
        error(item["loss"]),
        "" if item["bytes"] is None else size(item["bytes"]),
        duration(item["seconds"]) if item["seconds"] else "",
        item["reason"],
    )


def _speed_bar(item: CandidateData) -> Bar:
    speed = item["speed"]
    assert speed is not None  # only timed candidates are drawn
    kind = "good" if item["status"] == "kept" else "plain"
    text = ratio(speed["median"], speed["low"], speed["high"])
    return Bar(item["target"], speed["median"], text, speed["low"], speed["high"], kind)


def _passes(manifest: Manifest) -> Markup:
    head = ("pass", ">fired", "missed", ">nodes", ">weights", ">time", ">loss", "contract")
    parts: list[Markup] = []
    for stage in manifest["stages"]:
        title = f"{stage['name']}: {plural(len(stage['passes']), 'pass')}, {duration(stage['seconds'])}"
        parts.append(Markup(f"<h3>{markup(title)}</h3>"))
        if stage["passes"]:
            parts.append(table(head, (_pass(record) for record in stage["passes"])))
        for record in idle(stage["passes"]) if stage["name"] == "passes" else ():
            parts.append(paragraph(f"{record['pass']} changed nothing: {why(record)}"))
    steps = [record for stage in manifest["stages"] for record in stage["passes"] if _moved(record["bytes"])]
    start = manifest["sizes"]["weights"][0]
    drawn = [Bar("before", start, size(start)), *map(_step_bar, steps)]
    chart = bars("weights after each pass that changed them", drawn)
    found = [(entry.subject, str(entry)) for entry in raised(manifest)]
    return section(
        "Passes",
        *([table(("raised", ""), found)] if found else []),
        *([paragraph("Weights after each pass that changed them:"), chart] if steps else []),
        *parts,
    )


def _pass(record: Mapping[str, object]) -> Sequence[object]:
    nodes, weights = _pair(record["nodes"]), _pair(record["bytes"])
    loss = record["loss"]
    fired = _number(record["matches"])
    return (
        Markup(f'<span class="{"fired" if fired else "idle"}">{markup(record["pass"])}</span>'),
        f"{fired:,.0f}",
        _misses(away(record)),
        _step(f"{nodes[0]:,.0f}", f"{nodes[1]:,.0f}"),
        _step(size(weights[0]), size(weights[1])),
        duration(_number(record["seconds"])),
        error(_number(loss)) if loss is not None else "",
        record["contract"],
    )


def _misses(misses: Sequence[Mapping[str, object]]) -> Markup:
    """Misses by rule and need, each with its places, behind a click."""
    if not misses:
        return Markup("")
    groups: dict[tuple[str, str], list[Mapping[str, object]]] = {}
    for miss in misses:
        groups.setdefault((str(miss["rule"]), str(miss["need"])), []).append(miss)
    listed = "".join(
        f"<li><b>{markup(rule)}</b>, needed {markup(need)}<ul>{''.join(_places(group))}</ul></li>"
        for (rule, need), group in groups.items()
    )
    return details(f"{len(misses):,}", Markup(f"<ul>{listed}</ul>"))


def _places(group: Sequence[Mapping[str, object]]) -> Iterator[str]:
    for miss in group[:_PLACES]:
        module = f" in {miss['scope']}" if miss.get("scope") else ""
        yield f"<li>{markup(miss['place'])}{markup(module)}: {markup(miss['value'])}</li>"
    if len(group) > _PLACES:
        yield f"<li>and {len(group) - _PLACES:,} more, all in manifest.json</li>"


def _step_bar(record: Mapping[str, object]) -> Bar:
    before, after = _pair(record["bytes"])
    return Bar(str(record["pass"]), after, f"{size(after)}, {change(before, after)}")


def _quality(manifest: Manifest) -> Markup:
    quality, contract = manifest["quality"], manifest["contract"]
    feeds = quality["feeds"]
    rows = [
        ("contract", contract["text"], f"{error(contract['loss']) or 'not measured'} measured"),
        ("metric", quality["metric"], _scores(quality["original"], quality["compiled"])),
        ("drop", _measured(quality["drop"]), f"limit {quality['max_drop'] or 'none'}"),
        ("fidelity", _measured(quality["fidelity"]), "mean cosine of the outputs to the original's; 1 is identical"),
        (
            "feeds",
            feeds["source"],
            f"{plural(feeds['calibration'], 'batch')} to calibrate, {feeds['quality']} to judge; "
            f"{'held out from every pass' if feeds['held_out'] else 'not held out'}. {feeds['note']}",
        ),
    ]
    return section("Quality", table(("", "", ""), rows))


def _scores(original: float | None, compiled: float | None) -> str:
    if original is None or compiled is None:
        return "not measured"
    return f"original {original:.6g}, compiled {compiled:.6g}"


def _interface(manifest: Manifest) -> Markup:
    interface = manifest["interface"]
    ports = [
        *(("input", *_port(port)) for port in interface["inputs"]),
        *(("output", *_port(port)) for port in interface["outputs"]),
    ]
    limits = [
        (name, low, "no limit" if high is None else high) for name, (low, high) in interface["dimensions"].items()
    ]
    extra = [table(("dimension", ">from", ">to"), limits)] if limits else []
    return section("Inputs and outputs", table(("", "name", "dtype", "shape"), ports), *extra)


def _port(port: PortData) -> tuple[str, str, str]:
    shape = port["shape"]
    dims = "unknown rank" if shape is None else f"[{', '.join('?' if dim is None else str(dim) for dim in shape)}]"
    return port["name"], port["dtype"] or "?", dims


def _files(manifest: Manifest) -> Markup:
    held = [
        *((str(item["role"]), item["name"], item["bytes"], item["sha256"]) for item in manifest["files"]),
        *(("source", item["name"], item["bytes"], item["sha256"]) for item in manifest["source"]["files"]),
    ]
    rows = ((role, name, size(count), digest) for role, name, count, digest in held)
    return section("Files", table(("", "file", ">size", "sha256"), rows))


def _circumstances(manifest: Manifest) -> Markup:
    host = manifest["host"]
    about = [
        ("source", manifest["source"]["path"] or manifest["source"]["kind"]),
        ("target asked for", manifest["target"]["requested"]),
        ("cpu", f"{host['cpu']}, {plural(host['cores'], 'core')}, {host['machine']}"),
        ("system", f"{host['os']}, Python {host['python']}"),
        ("time", ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in manifest["seconds"].items())),
        ("versions", ", ".join(f"{name} {found}" for name, found in manifest["versions"].items() if found)),
    ]
    return section("Circumstances", table(("", ""), about))


def _step(before: str, after: str) -> str:
    return before if before == after else f"{before} → {after}"


def _measured(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.6g}"


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _pair(value: object) -> tuple[float, float]:
    first, second = value if isinstance(value, list | tuple) and len(value) == 2 else (0, 0)
    return _number(first), _number(second)


def _moved(value: object) -> bool:
    """Whether the weights changed by as much as people see."""
    before, after = _pair(value)
    return size(before) != size(after)


def _moment(created: str) -> str:
    return f"{created[:10]} {created[11:16]} UTC"
