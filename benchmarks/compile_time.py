"""What the exact graph passes cost, beside the optimizers that work on ONNX files.

    python benchmarks/compile_time.py                  four models, each contestant in a process of its own
    python benchmarks/compile_time.py --graphs         generated graphs of 10,000 and 100,000 nodes: is time linear?
    python benchmarks/compile_time.py --whole          `tersor compile --target onnxruntime --exact` of MiniLM

Contestants take turns, `--repeats` rounds of them. Seconds are from the model's file to the optimized graph, imports
excluded, the median; beside them the median of the paired ratios to tersor, with a 95 % bootstrap interval: above 1
tersor is faster. ONNX Runtime's include making a session (weights not packed for kernels) and writing the file, for it
offers no less. Memory is the peak of the process beyond what its imports hold (VmHWM): pages of a mapped file count as
soon as they are read, and until they are given back. Nodes are what is left: Constant nodes are not counted, a call of
a function as all that its body holds. `tersor` works in place as the others do,
without verification and without a copy of the graph to go back to; `tersor, verified` has both, running the model
before and after to compare answers. onnxslim and onnxsim come with the extra `bench`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from tersor.benchmarks import _compile_child
from tersor.benchmarks._common import options, publish
from tersor.benchmarks._compile_child import CONTESTANTS
from tersor.benchmarks._compile_models import MODELS
from tersor.driver.timing import bootstrap

#: The contestant that the others are compared with.
OURS = "tersor"

#: Sizes of generated graphs.
GRAPHS = (10_000, 100_000)

GRAPH = """
import json, sys, time
from tersor.benchmarks._layers import layered
from tersor.ir.walk import every_node
from tersor.passes.presets import RAISING
from tersor.passes.run import Verify, run_pipeline

model = layered(int(sys.argv[1]))
before, start, cpu = sum(1 for _ in every_node(model.graph)), time.perf_counter(), time.process_time()
report = run_pipeline(RAISING, model, verify=Verify.OFF)
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
passes = {}
for record in report.passes:
    passes[record.text] = passes.get(record.text, 0.0) + record.seconds
left = sum(1 for _ in every_node(model.graph))
print(json.dumps({"nodes": before, "left": left, "seconds": seconds, "cpu": cpu, "passes": passes}))
"""

WHOLE = """
import json, sys, time
from pathlib import Path
import tersor, tersor.driver.job, tersor.ir.fx, tersor.backends.onnxruntime.backend, onnxruntime, torch
from tersor.benchmarks._compile_child import _peak

before, start = _peak(), time.perf_counter()
artifact = tersor.compile(sys.argv[1], target="onnxruntime", exact=True, output=sys.argv[2])
seconds, memory = time.perf_counter() - start, _peak() - before
stages = artifact.manifest["seconds"]
print(json.dumps({"passes": artifact.report.seconds, "seconds": seconds, "memory": memory, "stages": stages}))
"""


def main() -> None:
    parser = options(__doc__ or "", seconds=0.0)
    parser.add_argument("--repeats", type=int, default=5, help="rounds of turns")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--contestants", nargs="*", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    parser.add_argument("--graphs", action="store_true", help="generated graphs instead of models")
    parser.add_argument("--whole", action="store_true", help="whole compiles instead of passes")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds that one run may take")
    parser.add_argument("--folder", type=Path, default=None, help="where models are kept; a temporary one by default")
    given = parser.parse_args()
    if given.graphs:
        _graphs(given)
        return
    with TemporaryDirectory(prefix="tersor-bench-") as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        (_whole if given.whole else _models)(given, folder)


def _models(given: Namespace, folder: Path) -> None:
    rows: list[dict[str, object]] = []
    for name in given.models:
        path = _written(name, folder)
        runs: dict[str, list[dict[str, object]]] = {contestant: [] for contestant in given.contestants}
        for _ in range(given.repeats):
            for contestant, made in runs.items():
                if not any("error" in run for run in made):
                    made.append(_once(contestant, path, given))
        rows += [{"model": name, "contestant": contestant} | _row(runs, contestant) for contestant in runs]
    note = "seconds from file to graph without imports; MB at the peak beyond imports"
    publish("compile_time", "Optimizing ONNX graphs, exactly", rows, given, note)


def _once(contestant: str, path: Path, given: Namespace) -> dict[str, object]:
    with TemporaryDirectory(prefix="tersor-bench-", dir=path.parent) as scratch:
        return _run([str(Path(_compile_child.__file__)), contestant, str(path), scratch], given)


def _row(runs: Mapping[str, Sequence[Mapping[str, object]]], contestant: str) -> dict[str, object]:
    made = runs[contestant]
    failed = next((str(run["error"]) for run in made if "error" in run), None)
    if failed is not None:
        return {"error": failed}
    seconds, memory = _numbers(made, "seconds"), _numbers(made, "memory")
    row: dict[str, object] = {"s": round(float(np.median(seconds)), 3)}
    if contestant != OURS and OURS in runs and not any("error" in run for run in runs[OURS]):
        row["tersor is"] = str(bootstrap(seconds / _numbers(runs[OURS], "seconds")))
    return row | {"peak MB": round(float(np.median(memory)) / 1e6), "nodes": made[0]["nodes"]}


def _numbers(runs: Sequence[Mapping[str, object]], key: str) -> np.ndarray:
    return np.array([float(str(run[key])) for run in runs])


def _graphs(given: Namespace) -> None:
    found = []
    for size in GRAPHS:
        runs = [_run(["-c", GRAPH, str(size)], given) for _ in range(given.repeats)]
        found.append(min(runs, key=lambda run: float(str(run["seconds"]))))
    rows = [
        {"graph": f"{size // 1000}k"}
        | {key: one[key] for key in ("nodes", "left")}
        | {key: round(float(str(one[key])), 2) for key in ("seconds", "cpu")}
        for size, one in zip(GRAPHS, found, strict=True)
    ]
    growth = float(str(found[-1]["seconds"])) / float(str(found[0]["seconds"]))
    note = f"{growth:.1f} times the time for {GRAPHS[-1] // GRAPHS[0]} times the nodes"
    publish("compile_graphs", "Exact pipeline on generated graphs", rows, given, note, {"runs": found})


def _whole(given: Namespace, folder: Path) -> None:
    path = _written("MiniLM", folder)
    size = sum(file.stat().st_size for file in folder.glob(f"{path.name}*"))
    with TemporaryDirectory(prefix="tersor-bench-", dir=folder) as scratch:
        runs = [_run(["-c", WHOLE, str(path), f"{scratch}/out{turn}"], given) for turn in range(given.repeats)]
    best = min(runs, key=lambda run: float(str(run["seconds"])))
    stages = best["stages"]
    assert isinstance(stages, dict)
    memory = float(str(best["memory"]))
    row: dict[str, object] = {"export": "opset 18", "model MB": round(size / 1e6, 1)}
    row |= {f"{key} s": round(float(str(best[key])), 2) for key in ("passes", "seconds")}
    row |= {"peak MB": round(memory / 1e6), "x model": round(memory / size, 2)}
    row |= {f"{name} s": round(taken, 2) for name, taken in stages.items() if taken > 0.01}
    publish("compile_whole", "tersor compile --target onnxruntime --exact, beyond imports", [row], given)


def _written(name: str, folder: Path) -> Path:
    """The model's file, made in a process whose memory is not ours."""
    path = folder / f"{name.replace(' ', '-').lower()}.onnx"
    if not path.exists():
        program = (
            "import sys; from pathlib import Path; from tersor.benchmarks._compile_models import MODELS; "
            "MODELS[sys.argv[1]](Path(sys.argv[2]))"
        )
        subprocess.run([sys.executable, "-c", program, name, str(path)], check=True, stdout=subprocess.DEVNULL)
    return path


def _run(program: list[str], given: Namespace) -> dict[str, object]:
    """What a program's last line says, or how it ended."""
    try:
        done = subprocess.run(
            [sys.executable, *program], capture_output=True, text=True, timeout=given.limit, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"took more than {given.limit:g} s", "seconds": given.limit}
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        return {"error": f"exit code {done.returncode}: {(said or [''])[-1][:100]}", "seconds": given.limit}
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
