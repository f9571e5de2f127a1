"""One contestant's way with one model, in a process of its own: for `compile_time.py`.

    python _compile_child.py CONTESTANT MODEL FOLDER

The last line of stdout is JSON: seconds from the file to the optimized graph, imports excluded; bytes of memory at the
peak beyond what the imports hold; nodes left, those of subgraphs and of called functions' bodies included, Constant
nodes not counted.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

#: From the model's path and a folder to write to, to how many nodes are left.
Work: TypeAlias = "Callable[[Path, Path], Callable[[], int]]"


def _exact(verified: bool) -> Work:
    import onnx_ir as ir
    import onnxruntime  # noqa: F401
    import tersor.ir.fx  # noqa: F401
    import torch  # noqa: F401
    from tersor.ir.load import load
    from tersor.passes.presets import RAISING
    from tersor.passes.run import Verify, run_pipeline

    def work(path: Path, _: Path) -> Callable[[], int]:
        model = load(path)
        run_pipeline(RAISING, model, verify=Verify.FAST if verified else Verify.OFF, undo=verified)
        return lambda: _nodes(ir.to_proto(model))

    return work


def _onnxscript() -> Work:
    import onnx_ir as ir
    from onnxscript import optimizer

    def work(path: Path, _: Path) -> Callable[[], int]:
        model = ir.load(path)
        optimizer.optimize(model)
        return lambda: _nodes(ir.to_proto(model))

    return work


def _onnxslim() -> Work:
    import onnx
    import onnxslim

    def work(path: Path, _: Path) -> Callable[[], int]:
        model = onnxslim.slim(onnx.load(path))
        return lambda: _nodes(model)

    return work


def _onnxsim() -> Work:
    import onnx
    import onnxsim

    def work(path: Path, _: Path) -> Callable[[], int]:
        model, _checked = onnxsim.simplify(onnx.load(path))
        return lambda: _nodes(model)

    return work


def _onnxruntime() -> Work:
    import onnx
    import onnxruntime

    def work(path: Path, folder: Path) -> Callable[[], int]:
        settings = onnxruntime.SessionOptions()
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        settings.log_severity_level = 3
        target = folder / "optimized.onnx"
        settings.optimized_model_filepath = str(target)
        settings.add_session_config_entry("session.disable_prepacking", "1")
        settings.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimized.data")
        onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        return lambda: _nodes(onnx.load(target, load_external_data=False))

    return work


CONTESTANTS: dict[str, Callable[[], Work]] = {
    "tersor": lambda: _exact(False),
    "tersor, verified": lambda: _exact(True),
    "onnxscript": _onnxscript,
    "onnxslim": _onnxslim,
    "onnxsim": _onnxsim,
    "onnxruntime": _onnxruntime,
}


def _nodes(model: object) -> int:
    import onnx

    assert isinstance(model, onnx.ModelProto)
    bodies = {(one.domain, one.name, one.overload): one.node for one in model.functions}

    def count(nodes: Iterable[onnx.NodeProto]) -> int:
        return sum(one(node) for node in nodes)

    def one(node: onnx.NodeProto) -> int:
        called = bodies.get((node.domain, node.op_type, node.overload))
        if called is not None:
            return count(called)
        inner = (attr.g.node for attr in node.attribute if attr.type == onnx.AttributeProto.GRAPH)
        return (node.op_type != "Constant") + sum(map(count, inner))

    return count(model.graph.node)


def _peak() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


def main() -> None:
    contestant, path, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    work = CONTESTANTS[contestant]()
    before, start = _peak(), time.perf_counter()
    count = work(path, folder)
    seconds, memory = time.perf_counter() - start, _peak() - before
    print(json.dumps({"seconds": seconds, "memory": memory, "nodes": count()}))


if __name__ == "__main__":
    main()
