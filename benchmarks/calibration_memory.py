"""What calibration holds in memory, and how long it takes beside others.

    python benchmarks/calibration_memory.py                            BERT-base, 512 sequences of 256 tokens
    python benchmarks/calibration_memory.py --sequences 8              the same, shorter
    python benchmarks/calibration_memory.py --time [--peers VENV ..]   MiniLM beside ONNX Runtime and NNCF

Memory: BERT-base with seeded random weights, histograms and Gram matrices of the inputs of all linear layers, in a
process of its own. `beyond` is the peak of that process (VmHWM) beyond its imports, which may not exceed model +
statistics + 1 GB. Time: the same sentences of STS12's training pairs for all, padded to the longest, as ONNX Runtime
stacks what it sees of all batches. ONNX Runtime's is its whole
`quantize_static` with entropy calibration, NNCF's its whole `quantize`, which gathers ranges; tersor's is gathering
alone, once histograms and once histograms and Gram matrices.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from tersor.benchmarks._common import options, publish

#: BERT-base: batches of so many sequences.
BATCH = 8
#: Bytes that a run may take beyond model and statistics.
ALLOWED = 1e9

_COMMON = """
import json, sys, time
from pathlib import Path
import numpy as np

def peak():
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024

def batches(path):
    made = {}
    for key, array in np.load(path).items():
        number, name = key.split("/", 1)
        made.setdefault(int(number), {})[name] = array
    return [made[number] for number in sorted(made)]

def done(before, start, **more):
    print(json.dumps({"seconds": time.perf_counter() - start, "memory": peak() - before} | more))
"""
_TERSOR = (
    _COMMON
    + """
import torch

from tersor.ir.load import load
from tersor.ir.site import Kind, sites
from tersor.passes.accumulators import Gram, Histogram
from tersor.passes.presets import RAISING
from tersor.passes.run import Verify, run_pipeline
from tersor.passes.statistics import Calibration, Want

torch.set_num_threads(int(sys.argv[3]))
before, data = peak(), batches(sys.argv[2])
model = load(Path(sys.argv[1]))
run_pipeline(RAISING, model, verify=Verify.OFF)
chosen = [site for site in sites(model) if site.kind is Kind.LINEAR]
wants = [Want(site.activation, Histogram, axis=site.axis) for site in chosen]
if sys.argv[4] == "gram":
    wants += [Want(site.activation, Gram, site.in_features, axis=site.axis) for site in chosen]
start = time.perf_counter()
found = Calibration(data).gather(model, wants)
done(before, start, statistics=found.bytes, sites=len(chosen))
"""
)
_ONNXRUNTIME = (
    _COMMON
    + """
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, quantize_static

class Reader(CalibrationDataReader):
    def __init__(self):
        self.left = iter(batches(sys.argv[2]))
    def get_next(self):
        return next(self.left, None)

before, start = peak(), time.perf_counter()
quantize_static(sys.argv[1], sys.argv[1] + ".static.onnx", Reader(), calibrate_method=CalibrationMethod.Entropy)
done(before, start)
"""
)
_NNCF = (
    _COMMON
    + """
import nncf, onnx

data = batches(sys.argv[2])
before, start = peak(), time.perf_counter()
nncf.quantize(
    onnx.load(sys.argv[1]), nncf.Dataset(data), subset_size=len(data), model_type=nncf.ModelType.TRANSFORMER
)
done(before, start)
"""
)


def main() -> None:
    parser = options(__doc__ or "", seconds=0.0)
    parser.add_argument("--sequences", type=int, default=512, help="of 256 tokens")
    parser.add_argument("--time", action="store_true", help="MiniLM beside others")
    parser.add_argument("--sentences", type=int, default=128, help="for the times")
    parser.add_argument("--peers", nargs="*", type=Path, default=[], help="environments that hold nncf")
    parser.add_argument("--limit", type=float, default=7200.0, help="seconds that one run may take")
    given = parser.parse_args()
    with TemporaryDirectory(prefix="tersor-bench-") as folder:
        (_times if given.time else _memory)(Path(folder), given)


def _memory(folder: Path, given: Namespace) -> None:
    model, data = folder / "bert.onnx", folder / "data.npz"
    _apart("from tersor.benchmarks._compile_models import MODELS; MODELS['BERT-base'](Path(sys.argv[1]))", str(model))
    _apart(
        "import numpy as np; random = np.random.default_rng(0); batch, count = map(int, sys.argv[2:]);"
        "sizes = [min(batch, count - start) for start in range(0, count, batch)];"
        "np.savez(sys.argv[1], **{f'{number}/{name}': array for number, size in enumerate(sizes) for name, array in "
        "(('input_ids', random.integers(0, 30522, (size, 256))), ('attention_mask', np.ones((size, 256), np.int64)))})",
        *map(str, (data, BATCH, given.sequences)),
    )
    size = sum(file.stat().st_size for file in folder.glob("bert.onnx*"))
    found = _run(sys.executable, _TERSOR, [str(model), str(data), str(given.threads), "gram"], given)
    row: dict[str, object] = {"sequences": given.sequences, "model MB": round(size / 1e6)}
    if "error" in found:
        row |= found
    else:
        held, beyond = float(str(found["statistics"])), float(str(found["memory"]))
        row |= {
            "sites": found["sites"],
            "statistics MB": round(held / 1e6),
            "beyond MB": round(beyond / 1e6),
            "allowed MB": round((size + held + ALLOWED) / 1e6),
            "holds": "yes" if beyond <= size + held + ALLOWED else "no",
            "s": round(float(str(found["seconds"])), 1),
        }
    publish("calibration_memory", "Histograms and Gram matrices of BERT-base", [row], given)


def _times(folder: Path, given: Namespace) -> None:
    model, data = folder / "minilm.onnx", folder / "data.npz"
    _apart(
        "import numpy as np; from tersor.benchmarks import _calibration; from tersor.benchmarks._compile_models import "
        "MODELS; from tersor.examples import minilm; MODELS['MiniLM'](Path(sys.argv[1]));"
        "texts = _calibration.sentences(int(sys.argv[3])); (whole,) = minilm.batches(texts, len(texts));"
        "np.savez(sys.argv[2], **{f'{start // 16}/{name}': array[start : start + 16] for name, array in whole.items() "
        "for start in range(0, len(texts), 16)})",
        *map(str, (model, data, given.sentences)),
    )
    ports = [str(model), str(data)]
    nncf = next((str(folder / "bin" / "python") for folder in given.peers), None)
    runs: Mapping[str, Callable[[], dict[str, object]]] = {
        "tersor histograms": lambda: _run(sys.executable, _TERSOR, [*ports, str(given.threads), "histogram"], given),
        "tersor histograms and Gram matrices": lambda: _run(
            sys.executable, _TERSOR, [*ports, str(given.threads), "gram"], given
        ),
        "onnxruntime quantize_static, entropy": lambda: _run(sys.executable, _ONNXRUNTIME, ports, given),
        "nncf quantize": lambda: {"error": "no environment"} if nncf is None else _run(nncf, _NNCF, ports, given),
    }
    rows = []
    for name, run in runs.items():
        start = time.perf_counter()
        found = run()
        row: dict[str, object] = {"": name, "sentences": given.sentences}
        if "error" in found:
            row |= found
        else:
            row |= {"s": round(float(str(found["seconds"])), 1), "beyond MB": round(float(str(found["memory"])) / 1e6)}
            row |= {"whole process s": round(time.perf_counter() - start, 1)}
        rows.append(row)
    publish("calibration_time", "Calibration of MiniLM", rows, given)


def _apart(program: str, *arguments: str) -> None:
    """Run a program in a process whose memory is not ours."""
    whole = f"import sys; from pathlib import Path; {program}"
    subprocess.run([sys.executable, "-c", whole, *arguments], check=True, stdout=subprocess.DEVNULL)


def _run(python: str, program: str, arguments: list[str], given: Namespace) -> dict[str, object]:
    """What a program's last line says, or how it ended."""
    threads = {"OMP_NUM_THREADS": str(given.threads), "OPENBLAS_NUM_THREADS": str(given.threads)}
    try:
        done = subprocess.run(
            [python, "-c", program, *arguments],
            capture_output=True,
            text=True,
            timeout=given.limit,
            check=False,
            env=os.environ | threads,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"took more than {given.limit:g} s"}
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        return {"error": f"exit code {done.returncode}: {(said or [''])[-1][:100]}"}
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
