"""The machine and the packages a compile ran with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

from .manifest import HostData

#: The packages whose versions a manifest records.
PACKAGES = ("tersor", "torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "openvino", "numpy")


def host() -> HostData:
    """This machine: processor, cores that this process may use, system and Python."""
    return {
        "cpu": _processor(),
        "cores": cores(),
        "os": platform.platform(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str | None]:
    """The installed version of each package, read from its metadata without importing it; None where it is missing."""
    return {name: _version(name) for name in PACKAGES}


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
