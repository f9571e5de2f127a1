"""ONNX's own backend tests as values: a model, its inputs, the outputs that are right and how close is close enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")

Value = object
"""An array, a list of values (a sequence), or None (an empty optional)."""

Engine = Callable[[onnx.ModelProto, Sequence[Value]], Sequence[Value]]
"""Runs a model on inputs given by position."""


@dataclass(frozen=True)
class Case:
    """One test. `load` gives the model and pairs of inputs and expected outputs."""

    kind: str
    name: str
    rtol: float
    atol: float
    load: Callable[[], tuple[onnx.ModelProto, list[tuple[list[Value], list[Value]]]]]


def cases(kinds: Sequence[str] = KINDS) -> list[Case]:
    """Every case of these kinds in the order of their names."""
    return [case for kind in kinds for case in sorted(_cases(kind), key=lambda case: case.name)]


def check(case: Case, engine: Engine) -> None:
    """Run a case. Raises what the engine raises, AssertionError for outputs that are not the expected ones."""
    model, sets = case.load()
    for inputs, expected in sets:
        found = list(engine(model, inputs))
        Runner.assert_similar_outputs(_rows(expected), _rows(found), rtol=case.rtol, atol=case.atol)


def _rows(values: Sequence[Value]) -> list[Value]:
    """Items of sequences as rows of one: ONNX's comparison takes the length of whatever a sequence holds, and a tensor
    of rank 0 has none. An empty optional is compared as an empty sequence."""
    return [[] if value is None else _items(value) if isinstance(value, list) else value for value in values]


def _items(sequence: Sequence[Value]) -> list[Value]:
    return [_rows([item]) for item in sequence]


def fx(model: onnx.ModelProto, inputs: Sequence[Value]) -> list[Value]:
    """The model as torch.fx, read as a user's file is."""
    import tersor
    from tersor.ir.fx import Interpreter, to_fx

    interpreter = Interpreter(to_fx(tersor.load(model)))
    fed = dict(zip(_fed(model), inputs, strict=False))
    found = interpreter.run({name: fed[name] for name in interpreter.inputs if name in fed})
    return [found[output.name] for output in model.graph.output]


def onnx_runtime(model: onnx.ModelProto, inputs: Sequence[Value]) -> list[Value]:
    """The model in ONNX Runtime as anyone starts it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    known = {value.name for value in session.get_inputs()}
    fed = {name: value for name, value in zip(_fed(model), inputs, strict=False) if name in known}
    return list(session.run([output.name for output in model.graph.output], fed))


def _fed(model: onnx.ModelProto) -> list[str]:
    given = {tensor.name for tensor in model.graph.initializer}
    return [value.name for value in model.graph.input if value.name not in given]


def _cases(kind: str) -> Iterator[Case]:
    for test in load_model_tests(kind=kind):
        if test.model is not None and test.data_sets is not None:
            model, sets = test.model, test.data_sets

            def load(
                model: onnx.ModelProto = model, sets: Sequence[tuple[Sequence[object], Sequence[object]]] = sets
            ) -> tuple[onnx.ModelProto, list[tuple[list[Value], list[Value]]]]:
                return model, [([_plain(x) for x in inputs], [_plain(y) for y in outputs]) for inputs, outputs in sets]

        else:
            assert test.model_dir is not None
            folder = Path(test.model_dir)

            def load(folder: Path = folder) -> tuple[onnx.ModelProto, list[tuple[list[Value], list[Value]]]]:
                return _on_disk(folder)

        yield Case(kind, test.name, test.rtol, test.atol, load)


def _on_disk(folder: Path) -> tuple[onnx.ModelProto, list[tuple[list[Value], list[Value]]]]:
    model = onnx.load(folder / "model.onnx")
    sets = []
    for data in sorted(folder.glob("test_data_set_*")):
        inputs = [_read(data / f"input_{i}.pb", value.type) for i, value in enumerate(_sources(model, data))]
        results = sorted(data.glob("output_*.pb"), key=lambda path: int(path.stem.split("_")[1]))
        outputs = [_read(path, value.type) for path, value in zip(results, model.graph.output, strict=False)]
        sets.append((inputs, outputs))
    return model, sets


def _sources(model: onnx.ModelProto, data: Path) -> Sequence[onnx.ValueInfoProto]:
    """The inputs there is a file for: those without a default."""
    names = set(_fed(model))
    return [value for value in model.graph.input if value.name in names][: len(list(data.glob("input_*.pb")))]


def _read(path: Path, kind: onnx.TypeProto) -> Value:
    data = path.read_bytes()
    if kind.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(data))
    if kind.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(data))
    return numpy_helper.to_array(onnx.TensorProto.FromString(data))


def _plain(value: object) -> Value:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, onnx.SequenceProto):
        return numpy_helper.to_list(value)
    if isinstance(value, onnx.OptionalProto):
        return numpy_helper.to_optional(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if value is None else np.asarray(value)
