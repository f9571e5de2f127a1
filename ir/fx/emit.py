"""`onnx_ir.Model` to `torch.fx.GraphModule`."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from typing import cast

import onnx_ir as oir
from torch import fx

from ..errors import ModelError, UnsupportedError
from ..text import place, spelled
from . import host
from .check import check
from .coverage import domain_of, missing, opset_of, refuse, snake
from .edge import holds_numbers
from .host import HOST
from .inverse.note import Meta
from .lowering import FAILURES, Function, HostLowering, Literal, Lowering, lookup
from .scope import (
    HOST_TYPES,
    SMALL,
    Body,
    Held,
    Kept,
    OnDevice,
    OnHost,
    Origin,
    Scope,
    Stored,
    constant,
    described,
)
from .table import DEVICE, FORMS, TEXT, UNSIGNED

Attributes = dict[str, object]


def to_fx(model: oir.Model, *, copy: bool = False) -> fx.GraphModule:
    """Emit the model as an FX module that computes the same outputs.

    The module is called with the model's inputs by position, or by name (made a Python name where it is none), and
    returns the output, or a tuple of them where there are several. Float initializers are parameters and integer ones
    buffers, named as in the model; `gm.meta` has the ONNX names under "inputs", "outputs" and "initializers" (name ->
    attribute path). Each FX node has the ONNX value it computes in `node.meta["onnx_name"]` and the ONNX node it comes
    from in `node.meta["source"]`. Functions are inlined; sizes are Python ints, so `torch.export` sees no guards on
    them.

    Weights are views of the initializers' own memory, which may be a read-only file: pass `copy=True` before changing
    them in place. Raises UnsupportedError with every op that has no lowering, ModelError for a graph that cannot run.
    """
    absent = missing(model)
    if absent:
        raise refuse(absent)
    graph = model.graph
    body = Body(copy=copy)
    scope = Scope(body, graph.opset_imports)
    inputs = [value for value in graph.inputs if value.name not in graph.initializers]
    for value in inputs:
        entry = body.placeholder(value.name or "", "a graph input", host=not holds_numbers(value.type))
        scope.values[value] = OnDevice(entry)
        described(scope.values[value], value)
    _Emitter(model).nodes(graph, scope)
    results = tuple(body.tensor(scope.get(value)) for value in graph.outputs)
    body.graph.output(results[0] if len(results) == 1 else results)
    module = body.module()
    module.meta["inputs"] = tuple(value.name for value in inputs)
    module.meta["outputs"] = tuple(value.name for value in graph.outputs)
    module.meta["output_types"] = tuple(value.dtype for value in graph.outputs)
    module.meta["initializers"] = dict(body.initializers)
    module.meta["onnx"] = Kept.of(model)
    module.meta = Meta(module)
    return module


MOST_NODES = 1 << 20


class _Emitter:
    """Walks graphs and writes FX nodes."""

    def __init__(self, model: oir.Model) -> None:
        self.functions = model.functions
        count = _unfolded(model, model.graph, {}, ())
        if count > MOST_NODES:
            raise ModelError(f"the calls of functions unfold to {count} nodes; at most {MOST_NODES} are inlined")

    def nodes(self, graph: oir.Graph | oir.Function | Sequence[oir.Node], scope: Scope) -> None:
        """Emit the nodes of a graph, a subgraph or a function, or some of them, into a scope."""
        if isinstance(graph, oir.Graph):
            for name, value in graph.initializers.items():
                if value.const_value is None:
                    raise ModelError(f"initializer {name!r} has no data")
                trainable = scope.outer is None
                scope.values[value] = constant(value.const_value, scope.name(value), trainable=trainable)
        for node in graph:
            try:
                results = self._node(node, scope)
            except FAILURES as error:
                raise ModelError(f"{place(node)}: the op cannot be read: {error}") from error
            for value, held in zip(node.outputs, results, strict=False):
                scope.values[value] = held
                described(held, value)

    def _node(self, node: oir.Node, scope: Scope) -> Sequence[Held]:
        domain, opset = domain_of(node), opset_of(node, scope.opsets)
        if (form := lookup(FORMS, domain, node.op_type, opset)) is not None:
            return form(node, scope, self.nodes)
        lowering = lookup(DEVICE, domain, node.op_type, opset)
        if lowering is None:
            return self._call(node, scope)
        inputs = [scope.optional(value) for value in node.inputs]
        while inputs and inputs[-1] is None:
            inputs.pop()
        attributes = _attributes(node, scope)
        if domain == "":
            check(node, attributes, inputs)
        if not lowering.many and len(_wanted(node)) > 1:
            raise ValueError(f"it has {len(_wanted(node))} outputs; expected one")
        if _has_text(node, inputs, attributes):
            lowering = lookup(TEXT, domain, node.op_type, opset)
            if lowering is None:
                raise UnsupportedError(f"{place(node)}: {spelled(node)} has no lowering for strings, only for numbers")
            return _on_device(lowering, node, inputs, attributes, scope)
        if _has_unsigned(node, inputs):
            lowering = lookup(UNSIGNED, domain, node.op_type, opset) or lowering
        on_host = lookup(HOST, domain, node.op_type, opset)
        if on_host is not None:
            found = _on_host(on_host, node, inputs, attributes, scope)
            if found is not None:
                return found
        return _on_device(lowering, node, inputs, attributes, scope)

    def _call(self, node: oir.Node, scope: Scope) -> Sequence[Held]:
        """Inline a call of a model-local function."""
        function = self.functions[node.op_identifier()]
        title = f"function {function.domain}.{function.name}"
        if function.identifier() in scope.calls:
            raise ModelError(f"{place(node)}: {title} calls itself")
        for given, taken, kind in (
            (len(node.inputs), len(function.inputs), "inputs"),
            (len(_wanted(node)), len(function.outputs), "outputs"),
        ):
            if given > taken:
                raise ModelError(f"{place(node)}: {title} has {taken} {kind}, the call {given}")
        attributes: dict[str, oir.Attr] = {
            name: attribute for name, attribute in function.attributes.items() if attribute.value is not None
        }
        for name, attribute in node.attributes.items():
            resolved = _resolved(attribute, scope)
            if resolved is not None:
                attributes[name] = resolved
        prefix = f"{scope.prefix}{node.name or node.outputs[0].name}/"
        calls = (*scope.calls, function.identifier())
        inner = Scope(scope.body, function.opset_imports, prefix, None, attributes, calls)
        entries = [scope.optional(value) for value in node.inputs]
        for value, held in itertools.zip_longest(function.inputs, entries):
            if held is None:
                inner.absent.add(value)
            else:
                inner.values[value] = held
        for value, wanted in zip(function.outputs, node.outputs, strict=False):
            inner.names[value] = scope.name(wanted)
        self.nodes(function, inner)
        return [inner.get(value) for value in function.outputs]


def _unfolded(
    model: oir.Model,
    scope: oir.Graph | oir.Function,
    known: dict[oir.OperatorIdentifier, int],
    calls: tuple[oir.OperatorIdentifier, ...],
) -> int:
    """How many nodes a graph has once functions are inlined; a call that comes back to itself counts as one."""
    total = 0
    for node in scope.all_nodes():
        total += 1
        name = node.op_identifier()
        function = model.functions.get(name)
        if function is None or name in calls:
            continue
        if name not in known:
            known[name] = _unfolded(model, function, known, (*calls, name))
        total += known[name]
    return total


def _on_device(
    lowering: Lowering, node: oir.Node, inputs: Sequence[Held | None], attributes: Attributes, scope: Scope
) -> Sequence[Held]:
    body = scope.body
    args: list[object] = []
    for index, held in enumerate(inputs):
        if held is None:
            args.append(None)
        elif index in lowering.ints:
            args.append(body.ints(held))
        elif index in lowering.numbers:
            args.append(body.number(held))
        else:
            args.append(body.tensor(held))
    extra: Attributes = dict(attributes)
    wanted = _wanted(node)
    if lowering.many:
        extra["outputs"] = len(wanted)
    if lowering.typed is not None and lowering.typed < len(inputs):
        extra["dtype"] = _dtype(node.inputs[lowering.typed], inputs[lowering.typed])
    if lowering.like:
        extra["like"] = body.like()
    call = _call(lowering.function, args, extra, node, wanted, scope)
    call.meta["onnx"] = _origin(node, inputs, scope)
    if lowering.host is not None:
        return [OnHost(call, lowering.host, static=False, name=scope.name(wanted[0]))]
    parts = _parts(call, node, wanted, scope)
    if lowering.strings:
        parts[0].meta["onnx_type"] = oir.TensorType(oir.DataType.STRING)
    return [OnDevice(part) for part in parts]


def _has_text(node: oir.Node, inputs: Sequence[Held | None], attributes: Attributes) -> bool:
    """Whether an input holds strings, or the result of a cast will."""
    types = (_type(value, held) for value, held in zip(node.inputs, inputs, strict=False))
    return oir.DataType.STRING in types or attributes.get("to") == oir.DataType.STRING


def _has_unsigned(node: oir.Node, inputs: Sequence[Held | None]) -> bool:
    """Whether an input is of a type that torch stores and has few kernels for."""
    types = (_type(value, held) for value, held in zip(node.inputs, inputs, strict=False))
    return any(found in (oir.DataType.UINT16, oir.DataType.UINT32, oir.DataType.UINT64) for found in types)


def _on_host(
    lowering: HostLowering, node: oir.Node, inputs: Sequence[Held | None], attributes: Attributes, scope: Scope
) -> Sequence[Held] | None:
    """The node as shape arithmetic, computed right away where all is known; None where it must go to the device."""
    if not inputs or any(held is not None and not isinstance(held, OnHost) for held in inputs):
        return None
    given = [held for held in inputs if isinstance(held, OnHost)]
    dtype = _host_dtype(lowering, node, inputs, attributes)
    if dtype not in HOST_TYPES:
        return None
    steering = [held for i in lowering.static if i < len(inputs) and isinstance(held := inputs[i], OnHost)]
    if not all(held.static for held in steering):
        return None
    static = lowering.lengths or all(held.static for held in given)
    known = all(held.literal for held in given)
    # what decides how large the result is must be known: else it is made as a tensor, which the interpreter's cap holds
    sizes = given if known else steering
    if lowering.grows and not (all(held.literal for held in sizes) and _few(sizes)):
        return None
    args = [held.value if isinstance(held, OnHost) else None for held in inputs]
    extra: Attributes = dict(attributes)
    wanted = _wanted(node)
    if lowering.many:
        extra["outputs"] = len(wanted)
    if known:
        try:
            value = lowering.function(*args, **extra)
        except host.NoFormError:
            return None
        values = value if lowering.many and len(wanted) > 1 else (value,)
        assert isinstance(values, tuple)
        if not all(_fits(part, dtype) for part in values):
            return None
        # an empty list does not say what the other axes of a table are
        if any(held.literal and host.rank(held.value) > 1 and not host.flat(part) for held in given for part in values):  # type: ignore[arg-type]
            return None
        return [OnHost(part, dtype, True, scope.name(out)) for part, out in zip(values, wanted, strict=False)]
    call = _call(lowering.function, args, extra, node, wanted, scope)
    call.meta["onnx"] = _origin(node, inputs, scope)
    parts = _parts(call, node, wanted, scope)
    return [OnHost(part, dtype, static, scope.name(out)) for part, out in zip(parts, wanted, strict=True)]


def _dtype(value: oir.Value | None, held: Held | None) -> int | None:
    """The ONNX type of an input, where it is known."""
    found = _type(value, held)
    return None if found is None else found.value


def _type(value: oir.Value | None, held: Held | None) -> oir.DataType | None:
    if isinstance(held, Stored):
        return held.tensor.dtype
    if isinstance(held, OnHost):
        return held.dtype
    if isinstance(held, OnDevice) and (kind := held.node.meta.get("onnx_type")) is not None:
        return cast(oir.TypeProtocol, kind).dtype
    return None if value is None else value.dtype


def _fits(value: object, dtype: oir.DataType) -> bool:
    """Whether the type holds the numbers; where one is too large it wraps around, which tensors do."""
    if dtype is oir.DataType.BOOL:
        return True
    limit = 1 << (dtype.bitwidth - 1)
    return all(-limit <= int(leaf) < limit for leaf in host.flat(value))  # type: ignore[arg-type]


def _few(given: Sequence[OnHost]) -> bool:
    """Numbers so small that whatever is built from them stays small."""
    leaves = [leaf for held in given for leaf in host.flat(held.value)]  # type: ignore[arg-type]
    return all(abs(int(leaf)) <= SMALL for leaf in leaves) and (
        len(leaves) <= 2 or sum(abs(int(leaf)) for leaf in leaves) <= SMALL
    )


def _host_dtype(
    lowering: HostLowering, node: oir.Node, inputs: Sequence[Held | None], attributes: Attributes
) -> oir.DataType | None:
    if node.op_type == "Cast":
        target = attributes["to"]
        assert isinstance(target, int)
        return oir.DataType(target)
    if node.op_type == "ConstantOfShape":
        value = attributes.get("value")
        return oir.DataType(value.dtype) if isinstance(value, Literal) else None
    if isinstance(lowering.dtype, oir.DataType):
        return lowering.dtype
    first = inputs[lowering.dtype]
    return first.dtype if isinstance(first, OnHost) else None


def _wanted(node: oir.Node) -> list[oir.Value]:
    """The outputs up to the last that is named."""
    outputs = list(node.outputs)
    while len(outputs) > 1 and outputs[-1].name in (None, ""):
        outputs.pop()
    return outputs


def _call(
    function: Function,
    args: Sequence[object],
    keywords: Attributes,
    node: oir.Node,
    outputs: Sequence[oir.Value],
    scope: Scope,
) -> fx.Node:
    single = len(outputs) == 1
    name = scope.name(outputs[0]) if single else f"({', '.join(scope.name(value) for value in outputs)})"
    return scope.body.call(function, args, name, place(node), tap=single, keywords=keywords)


def _origin(node: oir.Node, inputs: Sequence[Held | None], scope: Scope) -> Origin:
    given = [
        None if held is None else (scope.held_name(value, held), _type(value, held))
        for value, held in zip(node.inputs, inputs, strict=False)
    ]
    names = {snake(name): name for name in node.attributes}
    name = f"{scope.prefix}{node.name or ''}"
    return Origin(domain_of(node), node.op_type, name, tuple(given), names, dict(node.metadata_props))


def _parts(call: fx.Node, node: oir.Node, outputs: Sequence[oir.Value], scope: Scope) -> list[fx.Node]:
    if len(outputs) == 1:
        return [call]
    return [scope.body.call(operator.getitem, (call, i), scope.name(out), place(node)) for i, out in enumerate(outputs)]


def _resolved(attribute: oir.Attr, scope: Scope) -> oir.Attr | None:
    """An attribute, or what the caller of this function passed for it; None where it passed nothing."""
    if not attribute.is_ref():
        return attribute
    return scope.attributes.get(attribute.ref_attr_name or "")


def _attributes(node: oir.Node, scope: Scope) -> Attributes:
    found: Attributes = {}
    for name, attribute in node.attributes.items():
        resolved = _resolved(attribute, scope)
        if resolved is not None:
            found[snake(name)] = _plain(resolved)
    return found


def _plain(attribute: oir.Attr) -> object:
    if attribute.type == oir.AttributeType.TENSOR:
        tensor = attribute.as_tensor()
        return Literal(tensor.numpy().tolist(), tensor.dtype.value)
    if isinstance(attribute.value, int | float | str):
        return attribute.value
    if isinstance(attribute.value, Sequence):
        return tuple(attribute.value)
    raise UnsupportedError(f"attribute {attribute.name!r} of type {attribute.type.name} has no Python form")
