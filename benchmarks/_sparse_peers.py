"""What other packages prune, run by the Python of an environment that holds them.

    python _sparse_peers.py onnxsim METHOD SPARSITY PATTERN FOLDER
    python _sparse_peers.py llmcompressor METHOD SPARSITY PATTERN FOLDER

onnxsim reads FOLDER's `model.onnx` and `calibration.npz`, batches of its inputs named `number/input`, and writes
`pruned.onnx`. llm-compressor, whose pipelines take models of transformers alone, is given layers by its own functions:
`layers.npz` holds `name/weight`, [out, in], and `name/inputs`, [tokens, in], and `pruned.npz` the weights by name. This
file imports nothing but the peers and what they need.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np


def main() -> None:
    peer, method, sparsity, pattern, folder = *sys.argv[1:3], float(sys.argv[3]), sys.argv[4], Path(sys.argv[5])
    kept, size = (0, 0) if pattern == "free" else map(int, pattern.split(":"))
    {"onnxsim": onnxsim_, "llmcompressor": llmcompressor_}[peer](method, sparsity, kept, size, folder)


def onnxsim_(method: str, sparsity: float, kept: int, size: int, folder: Path) -> None:
    import onnx
    import onnxsim

    batches: dict[int, dict[str, np.ndarray]] = {}
    for key, array in np.load(folder / "calibration.npz").items():
        number, name = key.split("/", 1)
        batches.setdefault(int(number), {})[name] = array
    model = onnx.load(folder / "model.onnx")
    options = {"n": kept, "m": size} if size else {"sparsity": sparsity}
    if method == "magnitude":
        made = onnxsim.apply_magnitude_pruning(model, **options)
    else:
        apply = {"wanda": onnxsim.apply_wanda_pruning, "obs": onnxsim.apply_sparsegpt_pruning}[method]
        made = apply(model, calibration_data=[batches[number] for number in sorted(batches)], **options)
    onnx.save(made, folder / "pruned.onnx")


def llmcompressor_(method: str, sparsity: float, kept: int, size: int, folder: Path) -> None:
    import torch
    from llmcompressor.modifiers.pruning.sparsegpt import sgpt_sparsify
    from llmcompressor.modifiers.pruning.wanda import wanda_sparsify

    given, made = np.load(folder / "layers.npz"), {}
    for key in given:
        if not key.endswith("/weight"):
            continue
        name, stored = key.removesuffix("/weight"), torch.from_numpy(given[key])
        layer = torch.nn.Linear(stored.shape[1], stored.shape[0], bias=False)
        layer.weight.data, inputs = stored, torch.from_numpy(given[f"{name}/inputs"])
        # theirs count the zeros of a group
        pruned = size - kept, size
        with torch.no_grad():
            if method == "obs":
                seen, _ = sgpt_sparsify.accumulate_hessian(inputs, layer, sgpt_sparsify.make_empty_hessian(layer), 0)
                _, found = sgpt_sparsify.sparsify_weight(layer, {layer: seen}, sparsity, *pruned, 128, 0.01, False)
            else:
                seen = wanda_sparsify.make_empty_row_scalars(layer)
                seen, _ = wanda_sparsify.accumulate_row_scalars(inputs, layer, seen, 0)
                found = wanda_sparsify.sparsify_weight(layer, {layer: seen}, sparsity, *pruned)
        made[name] = found.numpy()
    np.savez(folder / "pruned.npz", **made)


if __name__ == "__main__":
    main()
