"""Memory and load time of one contestant, measured in a process of its own: `python -m tersor.driver.probe`.

The runtime is first loaded and warmed by a one-node model; what the process grows beyond that is the contestant's.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..ir.errors import ModelError
from ..ir.feeds import Feeds

_STATUS = Path("/proc/self/status")
_TIMEOUT_SECONDS = 600


@dataclass(frozen=True)
class Footprint:
    """load_seconds: opening the session. memory_bytes: peak beyond the runtime itself, while opening and running."""

    load_seconds: float
    memory_bytes: int


def probe(label: str, feeds: Sequence[Feeds], threads: int) -> Footprint:
    """Measure the contestant that `label` names on `feeds`. Raises ModelError with its last words where it dies."""
    with tempfile.TemporaryDirectory(prefix="tersor-probe-") as folder:
        for index, batch in enumerate(feeds):
            np.savez(Path(folder) / f"{index:04}.npz", allow_pickle=False, **batch)
        command = [sys.executable, "-m", __name__, label, str(threads), folder]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise ModelError(f"{label}: loading and running it took more than {_TIMEOUT_SECONDS} s") from error
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        words = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise ModelError(f"{label}: measuring it in its own process failed: {words[0]}")
    found = json.loads(lines[-1])
    return Footprint(found["load_seconds"], found["memory_bytes"])


def measure(label: str, threads: int, folder: Path) -> Footprint:
    """Open and run in this process; `folder` holds a batch an .npz file."""
    from ..backends.catalogue import create
    from ..ir.text import graph
    from .contestant import Contestant

    contestant = Contestant.parse(label)
    warm = create(contestant.backend).compile(graph("y = Relu(x)", inputs={"x": "float[1]"}))
    warm.run({"x": np.zeros(1, np.float32)})
    before = peak_bytes()
    start = time.perf_counter()
    session = contestant.open(threads)
    seconds = time.perf_counter() - start
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as stored:
            session.run({name: stored[name] for name in stored.files})
    return Footprint(seconds, max(0, peak_bytes() - before))


def peak_bytes() -> int:
    """The largest resident size of this process so far.

    Linux counts `ru_maxrss` from the process that started this one, so its own high-water mark is read where there is
    one; elsewhere `ru_maxrss` is in bytes.
    """
    if _STATUS.is_file():
        found = re.search(r"^VmHWM:\s*(\d+) kB", _STATUS.read_text(encoding="ascii", errors="replace"), re.MULTILINE)
        if found is not None:
            return int(found[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    footprint = measure(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
    print(json.dumps({"load_seconds": footprint.load_seconds, "memory_bytes": footprint.memory_bytes}))
