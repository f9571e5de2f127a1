"""What `manifest.json` holds, as types; `schema/manifest.schema.json` says the same for other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, TypedDict, cast

import onnx_ir

from ..backends.base import Interface
from ..ir.errors import ModelError
from ..ir.level import Port, Signature

#: The version of the manifest's schema; a reader refuses newer ones.
SCHEMA = 1

NAME = "manifest.json"

Role = Literal["model", "companion", "recipe", "report"]


class FileData(TypedDict):
    """One file of the artifact or the source."""

    name: str
    bytes: int
    sha256: str


class ArtifactFile(FileData):
    """role: `model` is what the backend needs to run, `companion` what passes put beside it (a tokenizer), `recipe` and
    `report` are for people.
    """

    role: Role


class SourceData(TypedDict):
    """Where the model came from. kind: onnx, huggingface, pt2, artifact, function; module or model for objects.

    path: as given, absolute, or `package.module:function`; None for an object. files: those the model was read from.
    """

    kind: str
    name: str
    path: str | None
    files: list[FileData]


class TargetData(TypedDict):
    """requested: as asked for, `cpu`. text: what was kept, `onnxruntime{threads=2}`.

    needs: of the machine that runs the files, as the backend says it; empty where any will do.
    """

    requested: str
    text: str
    backend: str
    options: dict[str, object]
    version: str
    needs: dict[str, object]


class HostData(TypedDict):
    cpu: str
    cores: int
    os: str
    machine: str
    python: str


class PortData(TypedDict):
    """shape: numbers, names of dynamic dimensions, None where unknown; None for an unknown rank."""

    name: str
    dtype: str | None
    shape: list[int | str | None] | None


class InterfaceData(TypedDict):
    """dimensions: from the smallest to the largest allowed size, None for no upper end."""

    inputs: list[PortData]
    outputs: list[PortData]
    dimensions: dict[str, list[int | None]]


class CurveData(TypedDict):
    """`passes.base.Curve`: between what a pass chose. points: [x, y]; others: [name, x, y]."""

    x: str
    y: str
    points: list[tuple[float, float]]
    chosen: tuple[float, float]
    others: list[tuple[str, float, float]]


class StageData(TypedDict):
    """name: `raise`, `passes` or `lower`. passes: `passes.report.PassReport.to_dict` of each."""

    name: str
    seconds: float
    passes: list[dict[str, object]]


class IntervalData(TypedDict):
    median: float
    low: float
    high: float


class LatencyData(TypedDict):
    p50: float
    p90: float
    p99: float


class CandidateData(TypedDict):
    """One backend that was compiled.

    status: `kept`, `slower`, `over-contract`, `over-max-drop`, `unsupported` or `failed`; reason: why it was not kept.
    loss: its error against the original in the contract's metric. speed: its speed over that of the kept one, paired.
    latency: milliseconds a call. seconds: lowering, writing and verifying it.
    """

    target: str
    version: str
    status: str
    reason: str | None
    loss: float | None
    bytes: int | None
    latency: LatencyData | None
    speed: IntervalData | None
    seconds: float


class ContractData(TypedDict):
    """What was promised against the original, and what was measured. metric: `relative-l2` or `cosine` (1 - cosine).

    over: a sentence for each loss over a contract or max_drop that was let through (`--force`); empty elsewhere.
    """

    text: str
    exact: bool
    metric: str
    limit: float
    loss: float | None
    over: list[str]


class FeedsData(TypedDict):
    """The feeds that verification and quality read. source: `data` or `random`; note: how they were chosen, for people.

    held_out: whether no pass saw the quality's feeds.
    """

    source: str
    calibration: int
    quality: int
    held_out: bool
    note: str


class QualityData(TypedDict):
    """metric: `module:function`, or `fidelity`, the mean cosine between outputs of original and compiled.

    drop: how much was lost, in max_drop's unit: relative to the original, or absolute. max_drop: the limit as given.
    fidelity: always measured; None when verification is off and there is no need for it.
    """

    metric: str
    original: float | None
    compiled: float | None
    drop: float | None
    max_drop: str | None
    fidelity: float | None
    feeds: FeedsData


class SizesData(TypedDict):
    """[before, after]: nodes of the graph and bytes of its distinct weights; files: bytes of the model files."""

    nodes: list[int]
    weights: list[int]
    files: int


class LayerData(TypedDict):
    """One weight that a pass rewrote. Errors are relative L2; None where not measured, or not finite.

    local: of the site's own output on the original's activations. in_place: the same in the rewritten model. alone,
    prefix: of the model's outputs with only this site rewritten, and with all up to it; added: what that grew by.
    share: of the sum of squares of all `alone`. bytes: before and after.
    """

    name: str
    module: str
    kind: str
    block: int | None
    bytes: list[int]
    local: float | None
    in_place: float | None
    alone: float | None
    share: float | None
    prefix: float | None
    added: float | None


class LayersData(TypedDict):
    """What each rewritten site loses, in the order of execution; no rows where none was rewritten or measured.

    feeds: where the batches come from. whole: the error of the model that all passes made; None where only `local` was
    measured.
    """

    feeds: str
    batches: int
    whole: float | None
    rows: list[LayerData]


class Manifest(TypedDict):
    """All of `manifest.json`. seconds: by stage, `total` included; created: UTC, ISO 8601."""

    schema: int
    tersor: str
    created: str
    source: SourceData
    target: TargetData
    host: HostData
    versions: dict[str, str | None]
    interface: InterfaceData
    contract: ContractData
    stages: list[StageData]
    candidates: list[CandidateData]
    sizes: SizesData
    quality: QualityData
    layers: LayersData
    seconds: dict[str, float]
    files: list[ArtifactFile]


def read_manifest(directory: str | Path) -> Manifest:
    """The manifest of an artifact folder. Raises ModelError where there is none that this version reads."""
    path = Path(directory) / NAME
    if not Path(directory).is_dir():
        raise ModelError(f"no folder {directory}: expected an artifact that `tersor compile` wrote")
    if not path.is_file():
        raise ModelError(f"{directory} is no artifact: it has no {NAME}; `tersor compile` writes one")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}): compile the model again") from error
    schema = stored.get("schema") if isinstance(stored, dict) else None
    if not isinstance(schema, int) or schema < 1:
        raise ModelError(f"{path} is no manifest of tersor: expected a field 'schema', found {str(stored)[:60]!r}")
    if schema > SCHEMA:
        raise ModelError(
            f"{path} has schema {schema}, written by tersor {stored.get('tersor')}; this version reads up to {SCHEMA}: "
            "upgrade tersor"
        )
    # manifests of this schema from before layers were measured
    stored.setdefault("layers", {"feeds": "", "batches": 0, "whole": None, "rows": []})
    missing = sorted(Manifest.__required_keys__ - stored.keys())
    if missing:
        raise ModelError(f"{path} lacks {', '.join(missing)}: it was altered; compile the model again")
    return cast(Manifest, stored)


def interface_data(interface: Interface) -> InterfaceData:
    """An interface as the manifest keeps it."""
    signature = interface.signature
    return {
        "inputs": [_port_data(port) for port in signature.inputs],
        "outputs": [_port_data(port) for port in signature.outputs],
        "dimensions": {name: list(pair) for name, pair in interface.ranges.items()},
    }


def interface_of(data: InterfaceData) -> Interface:
    """The interface that a manifest keeps. Raises ModelError where it is not what we write."""
    try:
        signature = Signature(tuple(map(_port, data["inputs"])), tuple(map(_port, data["outputs"])))
        pairs = {name: (low or 0, high) for name, (low, high) in data["dimensions"].items()}
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"the manifest's interface is not what tersor writes ({error}): compile again") from error
    return Interface(signature, pairs)


def _port_data(port: Port) -> PortData:
    shape = None if port.shape is None else list(port.shape)
    return {"name": port.name, "dtype": port.dtype.name.lower() if port.dtype else None, "shape": shape}


def _port(data: PortData) -> Port:
    dtype = None if data["dtype"] is None else onnx_ir.DataType[data["dtype"].upper()]
    return Port(data["name"], dtype, None if data["shape"] is None else tuple(data["shape"]))
