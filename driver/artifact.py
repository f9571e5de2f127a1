"""The artifact folder: what a compile leaves behind, and opening it again.

model files      of the backend; they run without tersor
tokenizer.json, vocabulary.json      of a model whose vocabulary was trimmed: what passes put beside it
recipe.yaml      reruns the same compile
manifest.json    where the model came from, what was done to it, what it measured, the hash of every file
report.html      the same for people
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path

import onnx_ir

from ..backends.base import Session
from ..backends.catalogue import find
from ..ir.errors import ModelError, OptionError, UnsupportedError
from ..ir.load import load
from ..ir.save import sha256
from ..passes.report import Report
from ..passes.syntax import build
from . import manifest as manifests
from . import recipe as recipes
from .manifest import ArtifactFile, Manifest, Role, interface_of, read_manifest

REPORT = "report.html"

_ROLES: Mapping[str, Role] = {recipes.NAME: "recipe", REPORT: "report"}

#: Files up to this many bytes have their hash checked whenever an artifact is opened.
CHECKED_BYTES = 1024 * 1024


class Artifact:
    """A compiled model.

    path: its folder; where `compile` was given no output, a temporary one that goes with this object.
    report: what the passes did, raising and lowering included.
    """

    def __init__(self, path: Path, manifest: Manifest, report: Report, keep: object = None) -> None:
        """`keep` lives as long as the artifact: the temporary folder around it, for one."""
        self.path = path
        self.manifest = manifest
        self.report = report
        self._keep = keep

    @cached_property
    def session(self) -> Session:
        """The compiled model, opened when it is first asked for."""
        session = open(self.path)
        # A session may outlive the artifact, and with it the temporary folder that it reads.
        session._keep = (session._keep, self._keep)
        return session

    @property
    def model(self) -> onnx_ir.Model | None:
        """The lowered model, read from the folder; None where the backend's files are no ONNX."""
        names = [file["name"] for file in self.manifest["files"] if file["role"] == "model"]
        found = [name for name in names if name.endswith(".onnx")]
        return load(self.path / found[0]) if found else None

    def __repr__(self) -> str:
        return f"Artifact({str(self.path)!r}, target={self.manifest['target']['text']!r})"


def open(directory: str | Path, *, verify: bool = False) -> Session:
    """A session over an artifact folder.

    The sizes of the model's files and the hashes of small ones are checked; `verify` checks the hash of every file.
    Raises ModelError for a folder that is no artifact, is incomplete or altered, UnsupportedError with the line that
    installs it when the runtime is missing.
    """
    return open_with(Path(directory).expanduser(), {}, verify=verify)


def open_with(folder: Path, options: Mapping[str, object], *, verify: bool = False) -> Session:
    """`open`, with `options` of the backend that win over those the artifact was compiled with."""
    manifest = read_manifest(folder)
    check_files(folder, manifest, verify=verify)
    target = manifest["target"]
    try:
        kind = find(target["backend"])
    except OptionError as error:
        raise UnsupportedError(f"{folder} was compiled for a backend that is not installed: {error}") from error
    if kind.version() is None:
        raise UnsupportedError(f"{folder} runs on {target['backend']}, which is not installed; {kind.install}")
    backend = build(kind, target["backend"], {**target["options"], **options})
    return backend.open(folder, interface_of(manifest["interface"]))


def check_files(folder: Path, manifest: Manifest, *, verify: bool = False) -> None:
    """Raise ModelError, naming all of them, for files that are missing or not as they were written.

    Without `verify`, only the model's files are looked at, and only small ones are hashed.
    """
    wrong = [
        f"{file['name']} {fault}"
        for file in manifest["files"]
        if verify or file["role"] == "model"
        if (fault := _fault(folder / file["name"], file, verify)) is not None
    ]
    if wrong:
        raise ModelError(f"the artifact {folder} is damaged: {'; '.join(wrong)}. Compile the model again")


def list_files(folder: Path, companions: Collection[str] = ()) -> list[ArtifactFile]:
    """Every file of a finished folder but its manifest, hashed, with its role; companions by name."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != manifests.NAME)
    return [_entry(path, folder, companions) for path in paths]


def finish(folder: Path, manifest: Manifest) -> None:
    """Write the report and the manifest, which lists it: the last files of an artifact."""
    from .report.html import render

    (folder / REPORT).write_text(render(manifest), encoding="utf-8")
    manifest["files"].append(_entry(folder / REPORT, folder))
    text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / manifests.NAME).write_text(text + "\n", encoding="utf-8")


def _entry(path: Path, folder: Path, companions: Collection[str] = ()) -> ArtifactFile:
    name = path.relative_to(folder).as_posix()
    role: Role = "companion" if name in companions else _ROLES.get(name, "model")
    return {"name": name, "bytes": path.stat().st_size, "sha256": sha256(path), "role": role}


def _fault(path: Path, file: ArtifactFile, verify: bool) -> str | None:
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != file["bytes"]:
        return f"has {size} bytes, expected {file['bytes']}"
    if (verify or size <= CHECKED_BYTES) and sha256(path) != file["sha256"]:
        return "has other contents than were written"
    return None
