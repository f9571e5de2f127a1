"""What compiling MiniLM costs: seconds in the exact graph passes, in all, and memory beyond the imports.

Each row is one compile in a process of its own, `--target onnxruntime --exact`, the fastest of `--repeats`. Memory is
the peak of the process minus what it held after importing everything that a compile imports.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tersor.benchmarks._common import options, publish
from tersor.examples import minilm
from tersor.ir.save import save
from tersor.ir.trace import trace

PROGRAM = """
import json, sys, time
from pathlib import Path
import tersor, tersor.driver.job, tersor.ir.fx, tersor.backends.onnxruntime.backend, onnxruntime, torch

def peak():
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024

before, start = peak(), time.perf_counter()
artifact = tersor.compile(sys.argv[1], target="onnxruntime", exact=True, output=sys.argv[2])
seconds, used = time.perf_counter() - start, peak() - before
stages = artifact.manifest["seconds"]
print(json.dumps({"passes": artifact.report.seconds, "whole": seconds, "memory": used, "stages": stages}))
"""


def main() -> None:
    parser = options(__doc__ or "", seconds=0.0)
    parser.add_argument("--repeats", type=int, default=5, help="compiles of which the fastest counts")
    given = parser.parse_args()
    source = minilm.source()
    rows: list[dict[str, object]] = []
    with TemporaryDirectory(prefix="tersor-bench-") as folder:
        for opset in (18, 23):
            path = Path(folder) / f"minilm{opset}.onnx"
            save(trace(source.module, source.args, dynamic=source.dynamic, opset=opset), path)
            size = sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
            runs = [_compile(path, Path(folder) / f"out{opset}-{turn}") for turn in range(given.repeats)]
            best = min(runs, key=lambda run: run["whole"])
            row: dict[str, object] = {"export": f"opset {opset}", "model MB": round(size / 1e6, 1)}
            row |= {"passes s": round(best["passes"], 2), "whole s": round(best["whole"], 2)}
            row |= {"peak MB": round(best["memory"] / 1e6), "x model": round(best["memory"] / size, 2)}
            rows.append(row | {f"{name} s": round(taken, 2) for name, taken in best["stages"].items() if taken > 0.01})
    publish("compile_time", "tersor compile --target onnxruntime --exact, beyond imports", rows, given)


def _compile(source: Path, output: Path) -> dict[str, float]:
    command = [sys.executable, "-c", PROGRAM, str(source), str(output)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
