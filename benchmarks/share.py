"""MiniLM with weights that layers share, without any training: Spearman on STS13, fidelity, bytes, speed.

    python benchmarks/share.py --quality                              no timing
    python benchmarks/share.py --targets onnxruntime openvino         two tables

Blocks that were trained apart are far apart: what `layers` rows lose is where healing begins. `basis` rows share a
basis of the linear weights of two layers, 0.6 of their numbers; `hashed` rows share numbers. Passes are fitted on 1,280
sentences of STS12's training pairs, which no figure is read on. All rows are timed in turns on the same batches of
STS13.
"""

from __future__ import annotations

from tersor.benchmarks._rewritten import tables

ROWS = {
    "layers in 3": "share-layers{groups=3}",
    "layers in 3, not repaired": "share-layers{groups=3, repair=false}",
    "layers in 3, not aligned": "share-layers{groups=3, align=false}",
    "layers in 3, nothing kept": "share-layers{groups=3, keep=none}",
    "layers in 3, by CKA": "share-layers{groups=3, choose=cka}",
    "layers in 3, by alignment": "share-layers{groups=3, choose=alignment}",
    "attention in 3": "share-layers{groups=3, what=attention}",
    "FFN in 3": "share-layers{groups=3, what=ffn}",
    "layers in 1": "share-layers{groups=1}",
    "basis of one": "share-basis{ratio=0.6, group=1, algorithm=whitened, repair=false}",
    "basis of two": "share-basis{ratio=0.6, alone=false, algorithm=whitened, repair=false}",
    "basis of two, by the answers": "share-basis{ratio=0.6, alone=false, repair=false}",
    "basis, default": "share-basis{ratio=0.6}",
    "k-means, 4 bits": "share-hashed",
    "k-means, 3 bits": "share-hashed{bits=3}",
    "hashed, 0.5": "share-hashed{method=hashed, ratio=0.5}",
}


def main() -> None:
    tables(__doc__ or "", ROWS, "share", "sharing weights")


if __name__ == "__main__":
    main()
