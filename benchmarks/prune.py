"""MiniLM pruned without any training: Spearman on STS13, fidelity, FLOPs, bytes, speed.

    python benchmarks/prune.py --quality                                              no timing
    python benchmarks/prune.py --targets onnxruntime openvino --forms float32 int8    four tables

Units are chosen and weights fitted on 1,280 sentences of STS12's training pairs, which no figure is read on, or with
`--text various` on captions, reviews, questions and articles. FLOPs are those of layers with weights, as a share of the
original's. All rows are timed in turns on the same batches of STS13, 32 sentences sorted by length and one by one;
ratios are medians of pairs with a 95 % bootstrap interval. int8 is `quantize-dynamic` on ONNX Runtime and
`quantize-static` on OpenVINO, of the same pruned models. A latency is that of the middle batch of the data on the first
of the targets, in float32.
"""

from __future__ import annotations

from tersor.benchmarks._rewritten import tables

ROWS = {
    "FFN -25 %, magnitude": "prune-neurons{ratio=0.25, score=magnitude, repair=false}",
    "FFN -25 %": "prune-neurons{ratio=0.25}",
    "FFN -50 %, magnitude": "prune-neurons{ratio=0.5, score=magnitude, repair=false}",
    "FFN -50 %, magnitude, repaired": "prune-neurons{ratio=0.5, score=magnitude}",
    "FFN -50 %": "prune-neurons{ratio=0.5}",
    "FFN -75 %, not repaired": "prune-neurons{ratio=0.75, repair=false}",
    "FFN -75 %": "prune-neurons{ratio=0.75}",
    "heads -25 %, not repaired": "prune-heads{ratio=0.25, repair=false}",
    "heads -25 %": "prune-heads{ratio=0.25}",
    "layers -1, influence": "drop-layers{count=1, score=influence}",
    "layers -1, not repaired": "drop-layers{count=1, repair=false}",
    "layers -1": "drop-layers{count=1}",
    "layers -2, not repaired": "drop-layers{count=2, repair=false}",
    "layers -2": "drop-layers{count=2}",
    "layers -3": "drop-layers{count=3}",
    "layers -1, FFN -50 %": "drop-layers{count=1}, prune-neurons{ratio=0.5}",
    "layers -3, FFN -50 %": "drop-layers{count=3}, prune-neurons{ratio=0.5}",
    "0.56 FLOPs": 'prune-budget{budget="0.556 flops"}',
    "0.45 FLOPs": 'prune-budget{budget="0.45 flops"}',
    "FFN -55 %, heads -50 %": "prune-neurons{ratio=0.55}, prune-heads{ratio=0.5}",
    "0.33 FLOPs": 'prune-budget{budget="0.333 flops"}',
    "0.5 latency": 'prune-budget{budget="0.5 latency"}',
}


def main() -> None:
    tables(__doc__ or "", ROWS, "prune", "pruned")


if __name__ == "__main__":
    main()
