"""Which of OpenVINO's CPU kernels is fastest for the same thing: what its lowering was chosen by.

Each family is one computation in several forms, as models of a few nodes that go to OpenVINO as they are written, timed
in turns on the same random activations of MiniLM's sizes (hidden 384, 12 heads). `kernels` says what the plugin made of
a form: the layers that run on integers or floats, constants apart.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import openvino
from tersor.backends.base import Interface
from tersor.backends.openvino.backend import OpenVino
from tersor.benchmarks._common import SEED, options, publish
from tersor.benchmarks._kernel_forms import HEADS, HIDDEN, INNER, WIDTH, Form
from tersor.driver.timing import paired
from tersor.examples.data import Feeds, Run
from tersor.ir.text import graph
from tersor.passes.quantize.methods.uniform import symmetric

SHAPES = ((1, 12), (32, 14))
GROUP = 64

ROUNDED = "q = QuantizeLinear(x, sx, {zero})", "d = DequantizeLinear(q, sx, {zero})"
W8 = "w = DequantizeLinear{axis=1}(w8, s8)"
PRODUCT = "p = MatMul({left}, w)", "y = Add(p, b)"


def linear(name: str, *weight: str, zero: str = "", bare: bool = False) -> Form:
    """A linear layer: its weight, and the zero point of its activation where that is rounded."""
    rounded = [line.format(zero=zero) for line in ROUNDED] if zero else []
    if bare:
        rounded[1] = "d = DequantizeLinear(q, sx)"
    product = [line.format(left="d" if zero else "x") for line in PRODUCT]
    return Form(f"linear {HIDDEN} x {INNER}", name, (*rounded, *weight, *product))


def attention(name: str, *, rounded: bool) -> Form:
    """Scores, softmax and values of heads that lie side by side."""
    heads = [f"{at}4 = Reshape({at}, [0, 0, {HEADS}, {WIDTH}])" for at in ("q", "k", "v")]
    tail = "4" if not rounded else "d"
    trip = [
        line
        for at in ("q", "k", "v")
        for line in (f"{at}8 = QuantizeLinear({at}4, sx, signed)", f"{at}d = DequantizeLinear({at}8, sx, signed)")
    ]
    shares = ("n8 = QuantizeLinear(n, sp, none)", "nd = DequantizeLinear(n8, sp, none)")
    lines = (
        *heads,
        *(trip if rounded else ()),
        f"qt = Transpose{{perm=[0, 2, 1, 3]}}(q{tail})",
        f"kt = Transpose{{perm=[0, 2, 3, 1]}}(k{tail})",
        f"vt = Transpose{{perm=[0, 2, 1, 3]}}(v{tail})",
        "c = MatMul(qt, kt)",
        "n = Softmax{axis=-1}(c)",
        *(shares if rounded else ()),
        f"o = MatMul({'nd' if rounded else 'n'}, vt)",
        "y = Transpose{perm=[0, 2, 1, 3]}(o)",
    )
    return Form("attention", name, lines)


FORMS = (
    linear("float", "w = Identity(wf)"),
    linear("W16A32, float16", "w = Cast{to=1}(wh)"),
    linear("W8A16", W8),
    linear("W8A16, groups", f"w = DequantizeLinear{{axis=0, block_size={GROUP}}}(w8, s8g)"),
    linear("W4A16", "w = DequantizeLinear{axis=1}(w4, s8)"),
    linear("W4A16, groups", f"w = DequantizeLinear{{axis=0, block_size={GROUP}}}(w4, s8g)"),
    linear("W8A8, int8", W8, zero="signed"),
    linear("W8A8, uint8", W8, zero="middle"),
    linear("W8A8, uint8, zero point in the bias", W8, zero="middle", bare=True),
    attention("float", rounded=False),
    attention("int8", rounded=True),
)


@dataclass(frozen=True)
class Ready:
    """A form that runs, and what the plugin made of it."""

    run: Run
    kernels: str


def main() -> None:
    given = options(__doc__ or "", seconds=5.0).parse_args()
    rows = [
        row
        for family in dict.fromkeys(form.family for form in FORMS)
        for row in _family(family, given.seconds, given.threads)
    ]
    publish("openvino_kernels", "OpenVINO's CPU kernels, forms of one computation", rows, given)


def _family(family: str, seconds: float, threads: int) -> Iterator[dict[str, object]]:
    forms = [form for form in FORMS if form.family == family]
    ready = {form.name: _ready(form, threads) for form in forms}
    runs = {name: each.run for name, each in ready.items()}
    timed = {
        shape: paired(runs, [_feeds(family, *shape)], rounds=100_000, warmup=20, budget_seconds=seconds)
        for shape in SHAPES
    }
    for form in forms:
        row: dict[str, object] = {"computation": family, "form": form.name}
        for (batch, sequence), timings in timed.items():
            row[f"us [{batch}, {sequence}]"] = round(timings.latency(form.name).p50 * 1e6, 1)
            row[f"x first [{batch}, {sequence}]"] = str(timings.ratio(forms[0].name, form.name))
        yield row | {"kernels": ready[form.name].kernels}


def _ready(form: Form, threads: int) -> Ready:
    known = _constants()
    inputs = dict.fromkeys(("x", "q", "k", "v"), f"float[b, s, {HIDDEN}]")
    read = {word for line in form.lines for word in _words(line.partition("=")[2])}
    made = {line.partition("=")[0].strip() for line in form.lines}
    model = graph(
        *form.lines,
        inputs={name: kind for name, kind in inputs.items() if name in read - made},
        outputs=["y"],
        **{name: array for name, array in known.items() if name in read},
    )
    backend = OpenVino(threads=threads)
    with tempfile.TemporaryDirectory(prefix="tersor-bench-") as folder:
        backend.write(model, Path(folder))
        session = backend.open(Path(folder), Interface.of(model))
        return Ready(session.run_unchecked, _kernels(Path(folder)))


def _kernels(folder: Path) -> str:
    compiled = openvino.Core().compile_model(folder / "openvino.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    told = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    names = [f"{info['layerType'].astype(str)} {info['runtimePrecision'].astype(str)}" for info in told]
    counted = Counter(name for name in names if not name.startswith(("Input", "Output", "Const")))
    return ", ".join(name if count == 1 else f"{count} {name}" for name, count in counted.items())


def _constants() -> Mapping[str, np.ndarray]:
    rng = np.random.default_rng(SEED)
    weight = _random(rng, HIDDEN, INNER)
    held = symmetric(weight, axis=1, paired=0)
    return {
        "wf": weight,
        "wh": weight.astype(np.float16),
        "w8": held.values,
        "s8": held.scale,
        "s8g": np.repeat(held.scale[None], HIDDEN // GROUP, 0),
        "w4": (held.values // 16).astype(ml_dtypes.int4),
        "b": _random(rng, INNER),
        "sx": np.float32(4 / 127),
        "sp": np.float32(1 / 255),
        "signed": np.array(0, np.int8),
        "none": np.array(0, np.uint8),
        "middle": np.array(120, np.uint8),
    }


def _feeds(family: str, batch: int, sequence: int) -> Feeds:
    rng = np.random.default_rng(SEED)
    names = ("q", "k", "v") if family == "attention" else ("x",)
    return {name: _random(rng, batch, sequence, HIDDEN) for name in names}


def _words(line: str) -> list[str]:
    return line.replace("(", " ").replace(")", " ").replace(",", " ").split()


def _random(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


if __name__ == "__main__":
    main()
