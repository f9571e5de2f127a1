"""What a model must hold to be taken in, and the tidying that makes any taken-in model alike.

`check` refuses, naming every offender; `tidy` puts right what runtimes forgive: unsorted nodes, missing opset imports
of contrib domains, unnamed or equally named nodes, weights that are also listed as inputs, weights nobody reads,
dimensions of -1, as some converters write what they do not know.
"""

from __future__ import annotations

import graphlib
from collections import Counter
from collections.abc import Iterable, Iterator

import onnx
import onnx_ir

from .errors import ModelError, nearest
from .onnxfile import OLDEST_OPSET
from .text import place

_FOREIGN = ("com.microsoft", "com.ms", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview")

# ONNX Runtime registers these in the standard domain at every opset, and its optimizer writes them there.
_FORGIVEN = frozenset({"LayerNormalization", "SimplifiedLayerNormalization"})

_Scope = onnx_ir.Graph | onnx_ir.Function


def check(model: onnx_ir.Model, where: str) -> None:
    """Raise ModelError, beginning with `where`, for what no runtime could run.

    These are: an opset before OLDEST_OPSET or after the newest that the installed onnx knows, operators that nobody
    defines, inputs and outputs that nobody produces, outputs listed twice, negative dimensions, and cycles.
    """
    for problem in (_opsets, _unknown, _unproduced, _repeated, _negative, _cycles):
        message = problem(model)
        if message:
            raise ModelError(f"{where}: {message}")


def tidy(model: onnx_ir.Model) -> None:
    """Put the imported level's invariants in place; see the module's text. Expects a model that `check` passed."""
    _import_domains(model)
    _release_inputs(model)
    _open_dimensions(model)
    for scope in _scopes(model):
        scope.sort()
        _name_nodes(scope)
        name_values(scope)
    for graph in model.graphs():
        for name, value in tuple(graph.initializers.items()):
            if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
                del graph.initializers[name]


def _scopes(model: onnx_ir.Model) -> Iterator[_Scope]:
    yield model.graph
    yield from model.functions.values()


def _opsets(model: onnx_ir.Model) -> str | None:
    newest = onnx.defs.onnx_opset_version()
    for scope in _scopes(model):
        if not any(node.domain == "" for node in scope.all_nodes()):
            continue
        opset = _standard(scope.opset_imports)
        what = f"function {scope.name}" if isinstance(scope, onnx_ir.Function) else "the model"
        if opset is None:
            return f"{what} imports no opset of the standard domain, which means opset 1; {_range(newest)}"
        if opset < OLDEST_OPSET:
            return f"{what} is of opset {opset}; {_range(newest)}: convert it with onnx.version_converter first"
        if opset > newest:
            return f"{what} is of opset {opset}; {_range(newest)}: export it at an older opset, or update onnx"
    return None


def _range(newest: int) -> str:
    return f"opsets {OLDEST_OPSET} to {newest} are read (onnx {onnx.__version__})"


def _standard(imports: dict[str, int]) -> int | None:
    return imports.get("", imports.get("ai.onnx"))


def _unknown(model: onnx_ir.Model) -> str | None:
    """All operators that neither a schema, a model-local function nor a runtime's domain defines."""
    found: dict[str, list[str]] = {}
    for scope in _scopes(model):
        opset = _standard(scope.opset_imports) or 0
        for node in scope.all_nodes():
            if node.op_identifier() in model.functions or node.domain.startswith(_FOREIGN):
                continue
            reason = _standard_problem(node.op_type, opset) if node.domain == "" else _domain_problem(node)
            if reason:
                found.setdefault(reason, []).append(place(node))
    if not found:
        return None
    count = sum(map(len, found.values()))
    listed = "; ".join(f"{reason}: {_some(places)}" for reason, places in found.items())
    return f"{count} unknown operator{'s' if count > 1 else ''}. {listed}"


def _standard_problem(op: str, opset: int) -> str | None:
    if op in _FORGIVEN or onnx.defs.has(op, opset, ""):
        return None
    if onnx.defs.has(op):
        return f"{op} is not in opset {opset}, it came with opset {_first_version(op)}"
    known = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    hint = nearest(op, known)
    return f"{op} is no operator of ONNX" + (f" ({hint})" if hint.startswith("did you mean") else "")


def _first_version(op: str) -> int:
    history = onnx.defs.get_all_schemas_with_history()
    return min(schema.since_version for schema in history if schema.name == op and schema.domain == "")


def _domain_problem(node: onnx_ir.Node) -> str:
    return f"{node.domain}::{node.op_type} is of a domain nobody knows, and the model holds no function of that name"


def _unproduced(model: onnx_ir.Model) -> str | None:
    readers: dict[str, list[str]] = {}
    for scope in _scopes(model):
        for node in scope.all_nodes():
            for value in node.inputs:
                if value is not None and not _defined(value):
                    readers.setdefault(str(value.name), []).append(place(node))
    missing = [f"{name!r}, read by {_some(places)}" for name, places in readers.items()]
    for graph in model.graphs():
        missing += [f"the output {value.name!r}" for value in graph.outputs if not _defined(value)]
    if not missing:
        return None
    return f"nobody produces {_some(missing)}: the file is damaged or was cut out of a larger graph"


def _defined(value: onnx_ir.Value) -> bool:
    return value.producer() is not None or value.is_graph_input() or value.is_initializer()


def _repeated(model: onnx_ir.Model) -> str | None:
    graph = model.graph
    for kind, values in (("input", graph.inputs), ("output", graph.outputs)):
        counts = Counter(value.name for value in values)
        twice = [repr(name) for name, count in counts.items() if count > 1]
        if twice:
            return f"{kind} {_some(twice)} is listed more than once: give each {kind} its own name"
    return None


def _negative(model: onnx_ir.Model) -> str | None:
    """Weights of a negative size, and declared sizes below -1, which stands for one that is not known."""
    found: list[str] = []
    for graph in model.graphs():
        for value in _defined_in(graph):
            least, shape = (0, value.const_value.shape) if value.const_value is not None else (-1, value.shape)
            dims = list(shape or ())
            if any(isinstance(dim, int) and dim < least for dim in dims):
                found.append(f"{value.name!r} of shape [{', '.join(map(str, dims))}]")
    return f"negative dimensions: {_some(found)}; the file is damaged, export the model again" if found else None


def _cycles(model: onnx_ir.Model) -> str | None:
    for scope in _scopes(model):
        flow: graphlib.TopologicalSorter[onnx_ir.Node] = graphlib.TopologicalSorter()
        for node, holder in _held(scope, None):
            producers = (value.producer() for value in node.inputs if value is not None)
            flow.add(node, *(producer for producer in producers if producer is not None))
            if holder is not None:
                flow.add(holder, node)
        try:
            flow.prepare()
        except graphlib.CycleError as error:
            loop = [place(node) for node in error.args[1]]
            return f"the graph has a cycle: {' -> '.join(loop)}; ONNX expresses loops with Loop or Scan"
    return None


def _held(
    scope: Iterable[onnx_ir.Node], holder: onnx_ir.Node | None
) -> Iterator[tuple[onnx_ir.Node, onnx_ir.Node | None]]:
    """Every node with the node, if any, in whose subgraph it is: a subgraph's nodes run before their holder ends."""
    for node in scope:
        yield node, holder
        for attribute in node.attributes.values():
            if attribute.is_ref():
                continue
            if attribute.type == onnx_ir.AttributeType.GRAPH:
                yield from _held(attribute.as_graph(), node)
            elif attribute.type == onnx_ir.AttributeType.GRAPHS:
                for graph in attribute.as_graphs():
                    yield from _held(graph, node)


def _some(items: list[str]) -> str:
    rest = len(items) - 8
    return ", ".join(items[:8]) + (f" and {rest} more" if rest > 0 else "")


def _import_domains(model: onnx_ir.Model) -> None:
    for scope in _scopes(model):
        imports = scope.opset_imports
        if "ai.onnx" in imports:
            imports.setdefault("", imports.pop("ai.onnx"))
        for node in scope.all_nodes():
            if node.domain not in imports:
                imports[node.domain] = model.opset_imports.get(node.domain, 1)
    for function in model.functions.values():
        for domain, version in function.opset_imports.items():
            model.opset_imports.setdefault(domain, version)


def _release_inputs(model: onnx_ir.Model) -> None:
    """Before IR version 4 a weight had to be an input too; from 4 on such an input is a default one may override."""
    if model.ir_version >= 4:
        return
    inputs = model.graph.inputs
    for value in [value for value in inputs if value.is_initializer()]:
        inputs.remove(value)
    model.ir_version = 4


def _open_dimensions(model: onnx_ir.Model) -> None:
    for graph in model.graphs():
        for value in (*_defined_in(graph), *graph.outputs):
            if value.shape is not None and -1 in value.shape.dims:
                value.shape = onnx_ir.Shape([None if dim == -1 else dim for dim in value.shape])


def _name_nodes(scope: _Scope) -> None:
    taken = {node.name for node in scope.all_nodes() if node.name}
    seen: set[str] = set()
    for node in scope.all_nodes():
        if not node.name or node.name in seen:
            node.name = _fresh(node.name or node.op_type, taken)
            taken.add(node.name)
        seen.add(node.name)


def name_values(scope: _Scope) -> None:
    """Values of subgraphs may shadow or repeat names; in one model every name shall mean one value."""
    top = scope.graph if isinstance(scope, onnx_ir.Function) else scope
    taken = {value.name for graph in (top, *top.subgraphs()) for value in _defined_in(graph) if value.name}
    seen: dict[str, onnx_ir.Value] = {}
    for graph in (top, *top.subgraphs()):
        for value in _defined_in(graph):
            if not value.name:
                continue
            if seen.setdefault(value.name, value) is not value:
                value.name = _fresh(value.name, taken)
                taken.add(value.name)
                seen[value.name] = value


def _defined_in(graph: onnx_ir.Graph) -> list[onnx_ir.Value]:
    return [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]


def _fresh(base: str, taken: set[str]) -> str:
    number = 1
    while f"{base}_{number}" in taken:
        number += 1
    return f"{base}_{number}"
