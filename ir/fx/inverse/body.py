"""One FX graph, the model's own or a branch's or loop's, written as the nodes of an ONNX graph."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import onnx_ir as oir
import torch
from torch import fx

from .. import runtime
from ..dtypes import TORCH, to_numpy
from ..host import Nested, flat
from ..scope import SMALL, Origin, owned, written
from .bodies import CONTROL
from .fused import FUSED
from .plain import known
from .table import Call, UnwritableError, literal_type, output_type, read

Result = oir.Value | tuple[oir.Value, ...]
Sources = dict[oir.Value, tuple[torch.Tensor, bool]]
_BOOL, _INT = oir.DataType.BOOL, oir.DataType.INT64


class Names:
    """The names of one model's values and nodes, each given once."""

    def __init__(self) -> None:
        self._values: dict[str, oir.Value] = {}
        self._nodes: set[str] = set()

    def take(self, value: oir.Value, name: str) -> None:
        """Give the value this name; another that had it gets one like it."""
        holder = self._values.get(name)
        if holder is value:
            return
        if value.name and self._values.get(value.name) is value:
            del self._values[value.name]
        self._values[name] = value
        value.name = name
        if holder is not None:
            self.give(holder, name)

    def give(self, value: oir.Value, name: str) -> None:
        """Give the value this name, or one like it where it is taken."""
        value.name = _free(name, self._values)
        self._values[value.name] = value

    def node(self, name: str) -> str:
        free = _free(name, self._nodes)
        self._nodes.add(free)
        return free


def _free(name: str, taken: Mapping[str, object] | set[str]) -> str:
    free, number = name, 1
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free


class Writer:
    """Writes a graph's nodes in order. Raises UnwritableError at a call that is no op of the tables.

    `faithful` says that nothing was edited since `to_fx`, so that what the model declared of types and shapes holds;
    `sources` gets the tensor that each initializer is, and whether it is that tensor transposed.
    """

    def __init__(self, module: fx.GraphModule, names: Names, opsets: dict[str, int], sources: Sources) -> None:
        self.nodes: list[oir.Node] = []
        self.initializers: list[oir.Value] = []
        self.faithful = True
        self._module, self._names, self._opsets, self._sources = module, names, opsets, sources
        self._values: dict[fx.Node, Result] = {}
        self._trusted: set[fx.Node] = set()
        self._constants: dict[tuple[object, ...], oir.Value] = {}
        self._stored: dict[str, oir.Value] = {}
        self._returned: set[oir.Value] = set()

    def bind(self, node: fx.Node, value: oir.Value, *, trusted: bool = True) -> None:
        """A placeholder stands for this value."""
        self._values[node] = value
        if trusted:
            self._trusted.add(node)

    def trusts(self, argument: object) -> bool:
        """Whether what was declared of a value still holds."""
        return not isinstance(argument, fx.Node) or argument in self._trusted

    def walk(self) -> list[oir.Value]:
        """Write all nodes; what the graph returns."""
        for node in self._module.graph.nodes:
            if node.op == "output":
                row = node.args[0]
                parts = list(row) if isinstance(row, list | tuple) else [row]
                return [self.needed(part, f"{node.name}_{index}") for index, part in enumerate(parts)]
            if node.op == "get_attr":
                self._attribute(node)
            elif node.op != "placeholder":
                self._write(node)
        raise AssertionError("an FX graph ends in an output")

    def output(self, value: oir.Value, name: str, *, inside: bool = False) -> oir.Value:
        """The value as the output of this name: itself, or a copy where it is an input, a weight or an output already.

        An input or weight of just this name may be an output of the model, but not of a body inside it.
        """
        computed = any(value is made for node in self.nodes[::-1] for made in node.outputs)
        if value not in self._returned and (computed or (value.name == name and not inside)):
            self._names.take(value, name)
            self._returned.add(value)
            return value
        (copy,) = self._node(Call("", "Identity", (), (), 1, None), [value], [name], "Identity", None)
        copy.type, copy.shape = value.type, value.shape
        self._names.take(copy, name)
        self._returned.add(copy)
        return copy

    def _write(self, node: fx.Node) -> None:
        self._trust(node)
        target = node.target
        if target is operator.getitem and isinstance(node.args[0], fx.Node):
            source = self._values.get(node.args[0])
            if isinstance(source, tuple) and isinstance(node.args[1], int):
                self._values[node] = source[node.args[1]]
                return
        if target is runtime.to_ints:
            self._values[node] = self.needed(node.args[0], node.name)
        elif target is runtime.as_tensor:
            self._values[node] = self._as_tensor(node)
        elif target in CONTROL:
            self._values[node] = CONTROL[target](self, node)
        elif target in FUSED:
            self._values[node] = FUSED[target](self, node)
        else:
            self._values[node] = self._call(node)

    def _trust(self, node: fx.Node) -> None:
        """Trust what was declared of a node unless it, or what it depends on, was edited since."""
        if node.meta.get("written") == written(node, self._module) and self._trusted.issuperset(node.all_input_nodes):
            self._trusted.add(node)
        else:
            self.faithful = False

    def _call(self, node: fx.Node) -> Result:
        origin: Origin | None = node.meta.get("onnx")
        target = node.target
        try:
            assert not isinstance(target, str)
            call = read(target, node.args, node.kwargs, origin, self._opsets)
        except (UnwritableError, AssertionError):
            call = known(node, self._opsets)
        if call.domain not in self._opsets:
            self._opsets[call.domain] = 1
        inputs = self._inputs(call, origin, trusted=node in self._trusted)
        return self.emit(node, call, inputs, several=call.outputs > 1)

    def emit(self, node: fx.Node, call: Call, inputs: Sequence[oir.Value | None], *, several: bool) -> Result:
        """Write one ONNX node for an FX node; its output, or the tuple of them where the FX node makes one."""
        origin: Origin | None = node.meta.get("onnx")
        parts = _parts(node) if several else {}
        labels: list[fx.Node | None] = [parts.get(index) for index in range(call.outputs)] if several else [node]
        names = ["" if label is None or _is_unread(label) else _name(label) for label in labels]
        made = self._node(call, inputs, names, (origin.name if origin else "") or node.name, origin)
        types = [None if value is None else value.dtype for value in inputs]
        for index, (value, label) in enumerate(zip(made, labels, strict=True)):
            if node in self._trusted and label is not None:
                value.type, value.shape = label.meta.get("onnx_type"), _shape(label)
            if value.type is None and (dtype := output_type(call, index, types)) is not None:
                value.type = oir.TensorType(dtype)
        return tuple(made) if several else made[0]

    def one(
        self, node: fx.Node, op: str, inputs: Sequence[oir.Value | None], attributes: Sequence[oir.Attr] = ()
    ) -> oir.Value:
        """Write a standard op of one output for an FX node."""
        made = self.emit(node, Call("", op, (), tuple(attributes), 1, None), inputs, several=False)
        assert isinstance(made, oir.Value)
        made.type = made.type or (inputs[0].type if inputs[0] is not None else None)
        return made

    def step(
        self, node: fx.Node, op: str, inputs: Sequence[oir.Value | None], attributes: Sequence[oir.Attr] = ()
    ) -> oir.Value:
        """Write a standard op that computes something on the way to what an FX node computes."""
        name = f"{_name(node)}_{op}"
        (made,) = self._node(Call("", op, (), tuple(attributes), 1, None), inputs, [name], name, None)
        made.type = inputs[0].type if inputs[0] is not None else None
        return made

    def _node(
        self,
        call: Call,
        inputs: Sequence[oir.Value | None],
        names: Sequence[str],
        name: str,
        origin: Origin | None,
    ) -> list[oir.Value]:
        made = [oir.Value() for _ in names]
        for value, wanted in zip(made, names, strict=True):
            if wanted:
                self._names.give(value, wanted)
            else:
                value.name = ""
        node = oir.Node(call.domain, call.op, inputs, call.attributes, outputs=made, name=self._names.node(name))
        if origin is not None:
            node.metadata_props.update(origin.props)
        self.nodes.append(node)
        return made

    def _inputs(self, call: Call, origin: Origin | None, *, trusted: bool) -> list[oir.Value | None]:
        """The call's inputs as values: numbers become constants, under the names they had where they are the same, and
        of the types they had where what was declared still holds."""
        given = origin.inputs if origin is not None else ()
        held = [self._value(argument) for argument in call.inputs]
        types = [None if value is None else value.dtype for value in held]
        for index, argument in enumerate(call.inputs):
            if argument is None or held[index] is not None:
                continue
            noted = given[index] if index < len(given) else None
            leaves = flat(cast(Nested, argument))
            name, dtype = noted if noted is not None else ("", None)
            if not trusted or dtype is None:
                dtype = literal_type(call, index, types, leaves[0] if leaves else 0, noted=dtype)
            held[index] = self._number(argument, dtype, name or f"{call.op}_input")
            types[index] = dtype
        return held

    def _value(self, argument: object) -> oir.Value | None:
        """The value of a node; None for a number and for what is left out."""
        if not isinstance(argument, fx.Node):
            return None
        value = self._values.get(argument)
        if not isinstance(value, oir.Value):
            raise UnwritableError(f"{argument.name} is no single value")
        return value

    def needed(self, argument: object, name: str, dtype: oir.DataType | None = None) -> oir.Value:
        """The value of a node, or a constant for a number."""
        if argument is None:
            raise UnwritableError(f"{name} has no value")
        found = self._value(argument)
        if found is not None:
            return found
        leaf = (flat(cast(Nested, argument)) or [0])[0]
        usual = _BOOL if isinstance(leaf, bool) else oir.DataType.FLOAT if isinstance(leaf, float) else _INT
        return self._number(argument, dtype or usual, name)

    def optional(self, argument: object, name: str) -> oir.Value | None:
        return None if argument is None else self.needed(argument, name)

    def _number(self, argument: object, dtype: oir.DataType, name: str) -> oir.Value:
        leaves = flat(cast(Nested, argument))
        if any(isinstance(leaf, fx.Node) for leaf in leaves):
            return self._joined(cast(Sequence[object], argument), dtype, name)
        try:
            array = np.array(_plain(argument), dtype=dtype.numpy())
        except (TypeError, ValueError, OverflowError) as error:
            raise UnwritableError(f"{argument!r} is no {dtype.name}") from error
        return self._constant(oir.Tensor(array, dtype=dtype), name)

    def _joined(self, argument: Sequence[object], dtype: oir.DataType, name: str) -> oir.Value:
        """A list of sizes, some of them computed."""
        zero = self._number([0], _INT, "axis_0")
        parts: list[oir.Value] = []
        for item in argument:
            value = self._value(item)
            if value is None:
                parts.append(self._number([item], dtype, f"{name}_part"))
            else:
                unsqueeze = Call("", "Unsqueeze", (), (), 1, None)
                parts += self._node(unsqueeze, [value, zero], [f"{name}_part"], "Unsqueeze", None)
        attributes = (oir.AttrInt64("axis", 0),)
        (value,) = self._node(Call("", "Concat", (), attributes, 1, None), parts, [name], "Concat", None)
        value.type = oir.TensorType(dtype)
        return value

    def _constant(self, tensor: oir.TensorProtocol, name: str) -> oir.Value:
        """An initializer; of equal small ones that go by one name, the same."""
        key = (
            name,
            tensor.dtype,
            tuple(tensor.shape),
            tensor.tobytes() if tensor.size <= SMALL else len(self.initializers),
        )
        if key in self._constants:
            return self._constants[key]
        value = oir.Value(type=oir.TensorType(tensor.dtype), shape=oir.Shape(tensor.shape.numpy()), const_value=tensor)
        self._names.give(value, name)
        tensor.name = value.name
        self.initializers.append(value)
        self._constants[key] = value
        return value

    def _attribute(self, node: fx.Node) -> None:
        """A parameter or buffer as an initializer, with the values it has now."""
        path = str(node.target)
        held = self.owned(node)
        self._trust(node)
        if not isinstance(held, torch.Tensor):
            return
        if path not in self._stored:
            name, dtype = self._module.meta.get("stored", {}).get(path, (path, None))
            if dtype is not None and TORCH.get(dtype) is not held.dtype:
                dtype = None
            array = to_numpy(held, dtype)
            self._stored[path] = self._constant(oir.Tensor(array, dtype=dtype), name)
            self._sources[self._stored[path]] = held, False
        self._values[node] = self._stored[path]

    def transposed(self, node: object) -> oir.Value | None:
        """A matrix that the module owns as the initializer that is its transpose; None for what a node computes."""
        held = self.owned(node) if isinstance(node, fx.Node) and node.op == "get_attr" else None
        if not isinstance(node, fx.Node) or not isinstance(held, torch.Tensor):
            return None
        path = str(node.target)
        label = f"{path}.T"
        if label not in self._stored:
            name, _ = self._module.meta.get("stored", {}).get(self._made(path), (label, None))
            self._stored[label] = self._constant(oir.Tensor(to_numpy(held).T), name)
            self._sources[self._stored[label]] = held, True
        return self._stored[label]

    def made(self, node: object) -> bool:
        """Whether a pass made this tensor out of another that the module had, a weight transposed."""
        return isinstance(node, fx.Node) and node.op == "get_attr" and self._made(str(node.target)) is not None

    def _made(self, path: str) -> str | None:
        sources: Mapping[str, str] = self._module.meta.get("made", {})
        return sources.get(path)

    def owned(self, node: fx.Node) -> object:
        """What a get_attr node reads from the module."""
        return owned(self._module, str(node.target))

    def _as_tensor(self, node: fx.Node) -> oir.Value:
        dtype = next((name for name, held in TORCH.items() if held is node.args[1]), _INT)
        value = self.needed(node.args[0], _name(node), dtype)
        if value.dtype is None or value.dtype is dtype:
            return value
        call = Call("", "Cast", (), (oir.AttrInt64("to", dtype.value),), 1, None)
        (cast_,) = self._node(call, [value], [_name(node)], "Cast", None)
        cast_.type, cast_.shape = oir.TensorType(dtype), value.shape
        return cast_

    def inside(self, module: fx.GraphModule) -> Writer:
        """The writer of a branch's or loop's body, which sees this graph's values."""
        return Writer(module, self._names, self._opsets, self._sources)

    def entry(self, node: fx.Node) -> oir.Value:
        """A new value for a placeholder: an input of a loop's body."""
        value = oir.Value(type=node.meta.get("onnx_type"), shape=_shape(node))
        self._names.give(value, _name(node))
        self.bind(node, value)
        return value


def _plain(argument: object) -> object:
    return [_plain(item) for item in argument] if isinstance(argument, list | tuple) else argument


def _parts(node: fx.Node) -> dict[int, fx.Node]:
    """The nodes that take one output each of a node with several."""
    taken: dict[int, fx.Node] = {}
    for user in node.users:
        if user.target is operator.getitem and user.args[0] is node and isinstance(user.args[1], int):
            taken.setdefault(user.args[1], user)
    return taken


def _is_unread(node: fx.Node) -> bool:
    """An output that the model leaves out, and nobody reads."""
    return node.meta.get("onnx_name") == "" and not node.users


def _name(node: fx.Node) -> str:
    return node.meta.get("onnx_name") or node.name


def _shape(node: fx.Node) -> oir.Shape | None:
    shape: oir.Shape | None = node.meta.get("onnx_shape")
    return None if shape is None else shape.copy()
