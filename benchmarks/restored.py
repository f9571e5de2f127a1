"""Models that ONNX Runtime optimized first (offline at the extended level, and by onnxruntime.transformers), raised.

Small seeded BERT, GPT-2, Llama and T5, exported at opset 18 (BERT by the TorchScript exporter at 17 as well). `plain`
and `raised` are the nodes at the semantic level of the plain export and of the optimized model, `difference` what the
latter has more and fewer of, `error` the relative L2 error against ONNX Runtime running the optimized model.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from tersor.benchmarks._common import options, publish
from tersor.benchmarks._restored import CASES, OPTIMIZERS, restore


def main() -> None:
    given = options(__doc__ or "", seconds=0.0).parse_args()
    rows: list[dict[str, object]] = []
    for name, case in CASES.items():
        with TemporaryDirectory(prefix="tersor-bench-") as folder:
            for optimizer in OPTIMIZERS:
                found = restore(case, optimizer, Path(folder))
                made = ", ".join(f"{count} {op.rpartition('.')[2]}" for op, count in sorted(found.optimized.items()))
                difference = ", ".join(f"{count:+d} {op}" for op, count in found.difference.items())
                row: dict[str, object] = {"model": name, "optimizer": optimizer, "its ops": made}
                row |= {"plain": found.plain, "raised": found.nodes, "difference": difference or "none"}
                rows.append(row | {"error": f"{found.error:.1e}"})
    publish("restored", "models optimized by ONNX Runtime, back at the semantic level", rows, given)


if __name__ == "__main__":
    main()
