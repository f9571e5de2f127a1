"""What this machine offers to tersor, and what is in the way: versions, CPU, memory, temp folder, runtimes."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..ir.errors import TersorError
from .host import host
from .units import plural, size

#: Distribution name -> the line that installs it, and whether tersor cannot do without.
PACKAGES: Mapping[str, tuple[str, bool]] = {
    "torch": ("pip install 'torch>=2.11'", True),
    "onnx": ("pip install onnx", True),
    "onnx-ir": ("pip install onnx-ir", True),
    "onnxscript": ("pip install onnxscript", True),
    "onnxruntime": ("pip install onnxruntime", True),
    "numpy": ("pip install numpy", True),
    "networkx": ("pip install networkx", True),
    "openvino": ("pip install 'tersor[openvino]'", False),
    "transformers": ("pip install 'tersor[hf]'", False),
    "safetensors": ("pip install 'tersor[hf]'", False),
    "tokenizers": ("pip install tokenizers", False),
    "pillow": ("pip install 'tersor[image]'", False),
    "tensorly": ("pip install 'tersor[tensorly]'", False),
}

#: CPU flags that decide which kernels run: x86 names, then Arm names.
FEATURES = (
    *("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve"),
)

_CPUINFO = Path("/proc/cpuinfo")
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Check:
    """One thing looked at. `state` is `ok`, `note` (works, could be better) or `broken`; `hint` says what to do."""

    subject: str
    value: str
    state: str = "ok"
    hint: str = ""


def examine() -> Iterator[Check]:
    """Every check in order. What does not work becomes a check that says so, never an exception."""
    yield Check("tersor", f"{_version('tersor') or 'not installed'} in {Path(__file__).parents[1]}")
    yield Check("python", f"{platform.python_version()} ({platform.platform()})")
    for name, (install, needed) in PACKAGES.items():
        found = _version(name)
        state = "ok" if found else "broken" if needed else "note"
        yield Check(name, found or "not installed", state, "" if found else install)
    yield from _processor()
    yield _memory()
    yield _temporary()
    yield from _runtimes()


def parse_features(cpuinfo: str) -> list[str]:
    """Those of `FEATURES` that the text of /proc/cpuinfo lists."""
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    have = set(flags[1].split()) if flags else set()
    return [feature for feature in FEATURES if feature in have]


def _processor() -> Iterator[Check]:
    machine = host()
    yield Check("cpu", f"{machine['cpu']} ({machine['machine']})")
    features = parse_features(_CPUINFO.read_text(encoding="utf-8", errors="replace")) if _CPUINFO.is_file() else []
    if features:
        fast = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"} & set(features)
        hint = "" if fast else "no int8 dot product: quantized models get smaller, but hardly faster here"
        yield Check("cpu features", " ".join(features), "ok" if fast else "note", hint)
    limit = _quota()
    value = f"{plural(machine['cores'], 'core')} for this process"
    value += f", limited to {limit:g} by the cgroup" if limit else ""
    asked = os.environ.get("OMP_NUM_THREADS")
    value += f", OMP_NUM_THREADS={asked}" if asked else ""
    over = limit is not None and limit < machine["cores"]
    granted = max(1, int(limit or 1))
    hint = f"runtimes start a thread a core; give them --target 'NAME{{threads={granted}}}'" if over else ""
    yield Check("threads", value, "note" if over else "ok", hint)


def _quota() -> float | None:
    """CPUs that the cgroup grants, None without a limit."""
    try:
        quota, period = _CPU_QUOTA.read_text(encoding="ascii").split()
        return int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _memory() -> Check:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return Check("memory", "unknown")
    return Check("memory", size(total))


def _temporary() -> Check:
    try:
        with tempfile.NamedTemporaryFile(prefix="tersor-doctor-") as file:
            file.write(b"tersor")
            file.flush()
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Check("temp folder", str(error), "broken", "set TMPDIR to a folder that can be written")
    low = free < 2e9
    hint = "sessions and exports are written there first; set TMPDIR to a larger disk" if low else ""
    return Check("temp folder", f"{folder}, {size(free)} free", "note" if low else "ok", hint)


def _runtimes() -> Iterator[Check]:
    from ..backends import catalogue

    for name in catalogue.table():
        try:
            kind = catalogue.find(name)
            found = kind.version()
        except (TersorError, ImportError, AttributeError) as error:
            yield Check(f"target {name}", str(error), "broken", "the package that offers it does not import")
            continue
        if found is None:
            yield Check(f"target {name}", "not installed", "note", kind.install)
        elif (obstacle := kind.obstacle()) is not None:
            yield Check(f"target {name}", f"{found}, but {obstacle[0]}", "note", obstacle[1])
        elif not kind.quick:
            yield Check(f"target {name}", f"{found} has what it compiles with (not tried: it takes a while)")
        else:
            yield _try(name, found)


def _try(name: str, found: str) -> Check:
    """Run y = Relu(x) on a runtime."""
    import numpy as np

    from ..backends.catalogue import create, find
    from ..ir.text import graph

    subject = f"target {name}"
    try:
        session = create(name).compile(graph("y = Relu(x)", inputs={"x": "float[n]"}))
        answer = session.run({"x": np.array([-1.0, 2.0], np.float32)})["y"]
    except Exception as error:  # whatever a runtime's own code raises is what the reader wants to see
        return Check(subject, f"{type(error).__name__}: {error}", "broken", f"reinstall it: {find(name).install}")
    if answer.tolist() != [0.0, 2.0]:
        return Check(subject, f"{found} answers {answer.tolist()} to relu([-1, 2])", "broken", find(name).install)
    return Check(subject, f"{found} runs a one-node model")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
