"""MiniLM's linear layers as products of two thinner ones, without any training: Spearman on STS13, fidelity, speed.

    python benchmarks/factorize.py --quality                              no timing
    python benchmarks/factorize.py --targets onnxruntime openvino         two tables

The share that a row is called by is of the numbers of the linear layers. `svd`, `Fisher` and `whitened` are the
papers' methods: one share for every layer, weights factored as they are. `prototype` fits nothing either and factors
what reads one activation together. The rest is ranks chosen over all layers, each fitted to the original's stream
before it is factored; `default` is `factorize-linear{ratio=..}` with no other option, which leaves ranks alone that
are slower on the target; `latency 0.6` asks for a share of the time that these layers take there. Factors are found on
1,280 sentences of STS12's training pairs, which no figure is read on. All rows are timed in turns on the same batches
of STS13, 32 sentences sorted by length and one by one; ratios are medians of pairs with a 95 % bootstrap interval.
"""

from __future__ import annotations

from tersor.benchmarks._rewritten import tables

SHARES = (0.8, 0.6, 0.4)
PAPERS = {
    "svd": "algorithm=svd, scope=layer, joint=apart, repair=false",
    "Fisher": "algorithm=fisher, scope=layer, joint=apart, repair=false",
    "scaled": "algorithm=scaled, scope=layer, joint=apart, repair=false",
    "whitened": "algorithm=whitened, scope=layer, joint=apart, repair=false",
}
MORE = {
    "prototype": "algorithm=whitened, scope=layer, joint=together, repair=false",
    "whitened, global": "algorithm=whitened, repair=false",
    "Kronecker, global": "repair=false",
    "whitened, global, fitted": "algorithm=whitened",
    "default": "",
}
ROWS = {
    f"{name} {share}": f"factorize-linear{{ratio={share}{', ' if options else ''}{options}}}"
    for share in SHARES
    for name, options in (PAPERS | MORE).items()
} | {"latency 0.6": 'factorize-linear{budget="0.6 latency"}'}


def main() -> None:
    timed = [name for name in ROWS if name.startswith(("default", "latency"))]
    tables(__doc__ or "", ROWS, "factorize", "factorised", paying=timed)


if __name__ == "__main__":
    main()
