"""Where emitted values are kept while a model becomes an FX graph.

A `Body` is one FX graph with the module that owns its tensors: the model itself, or one branch or loop body. A `Scope`
is the names visible at a node: several scopes (a function that was inlined) may write to one body, and a body inside
another takes what it uses from outside as extra inputs.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import numpy as np
import onnx_ir as oir
import torch
from torch import fx
from torch.fx.node import Argument

from ..errors import ModelError
from . import runtime
from .dtypes import to_torch, torch_dtype
from .edge import holds_numbers, strings
from .module import Emitted

_OWN = frozenset(dir(Emitted(torch.nn.Module(), fx.Graph())))
"""What every module has that no weight may be called."""
_WRITTEN = frozenset({"self", "torch", "device", "inf", "nan", "NoneType", "pytree", "fx_pytree"})
"""What the code that FX writes means by these names, so that no input may be called so."""
HOST_TYPES = (oir.DataType.INT64, oir.DataType.INT32, oir.DataType.BOOL)
SMALL = 64
"""Constants of at most this many elements can be shape arithmetic; larger ones are data."""


@dataclass(frozen=True, eq=False)
class OnDevice:
    """A value that some FX node computes as a tensor."""

    node: fx.Node


@dataclass(frozen=True, eq=False)
class Stored:
    """A constant tensor that becomes an attribute of the module once somebody reads it."""

    tensor: oir.TensorProtocol
    name: str
    trainable: bool


@dataclass(frozen=True, eq=False)
class OnHost:
    """Shape arithmetic: the FX node that computes it, or the numbers themselves; `origin` where it was a constant."""

    value: object
    dtype: oir.DataType
    static: bool
    name: str
    origin: Stored | None = None

    @property
    def literal(self) -> bool:
        return not isinstance(self.value, fx.Node)


Held = OnDevice | Stored | OnHost


class Origin(NamedTuple):
    """The ONNX node that an FX node was written for, in `node.meta["onnx"]`: what its target and arguments do not say.

    inputs      name and type of each input, None for one left out
    attributes  Python name -> ONNX name
    props       the node's metadata
    """

    domain: str
    op: str
    name: str
    inputs: tuple[tuple[str, oir.DataType | None] | None, ...]
    attributes: Mapping[str, str]
    props: Mapping[str, str]


class Kept(NamedTuple):
    """What a module keeps of the model it was made from, in `gm.meta["onnx"]`, beside its graph."""

    name: str | None
    ir_version: int
    opsets: Mapping[str, int]
    props: Mapping[str, str]
    defaults: tuple[str, ...]
    outputs: tuple[tuple[oir.TypeProtocol | None, oir.Shape | None], ...]

    @classmethod
    def of(cls, model: oir.Model) -> Kept:
        graph = model.graph
        defaults = tuple(value.name or "" for value in graph.inputs if value.is_initializer())
        outputs = tuple((value.type, None if value.shape is None else value.shape.copy()) for value in graph.outputs)
        opsets, props = dict(graph.opset_imports), dict(model.metadata_props)
        return cls(graph.name, model.ir_version, opsets, props, defaults, outputs)


def constant(tensor: oir.TensorProtocol, name: str, *, trainable: bool) -> Held:
    """A constant: on the host if it may be shape arithmetic, else stored."""
    stored = Stored(tensor, name, trainable)
    rank = len(tensor.shape)
    if tensor.dtype in HOST_TYPES and tensor.size <= SMALL and (rank <= 1 or (rank == 2 and tensor.size > 0)):
        return OnHost(tensor.numpy().tolist(), tensor.dtype, static=True, name=name, origin=stored)
    return stored


@dataclass(eq=False)
class Body:
    """One FX graph under construction."""

    outer: Body | None = None
    copy: bool = False
    graph: fx.Graph = field(default_factory=fx.Graph)
    root: torch.nn.Module = field(default_factory=torch.nn.Module)
    captured: dict[fx.Node, fx.Node] = field(default_factory=dict)
    initializers: dict[str, str] = field(default_factory=dict)
    stored: dict[str, tuple[str, oir.DataType]] = field(default_factory=dict)
    modules: int = 0
    _tensors: dict[int, fx.Node] = field(default_factory=dict)
    _kept: list[Held] = field(default_factory=list)
    _first: fx.Node | None = None

    def call(
        self,
        function: Callable[..., object],
        args: Iterable[object],
        name: str,
        source: str,
        *,
        tap: bool = True,
        keywords: Mapping[str, object] | None = None,
    ) -> fx.Node:
        """An FX node for a call of a function; `tap` where its result is a value of the model."""
        args, kwargs = cast(tuple[Argument, ...], tuple(args)), cast(dict[str, Argument], dict(keywords or {}))
        return marked(self.graph.create_node("call_function", function, args, kwargs, name=name), name, source, tap=tap)

    def placeholder(self, name: str, source: str, *, tap: bool = True, host: bool = False) -> fx.Node:
        """An input, with a Python name that resembles its own; `tap` where it is a value of the model."""
        target = identifier(name)
        while target in _WRITTEN:
            target += "_"
        # left to itself FX has small letters in one and not in the other, and assigns a parameter to a variable that
        # may be another parameter's name
        node = marked(self.graph.create_node("placeholder", target, name=target), name, source, tap=tap)
        node.target = node.name
        if self._first is None and not host:
            self._first = node
        return node

    def like(self) -> fx.Node | None:
        """A tensor that tells makers of new tensors which device to use: the first input."""
        if self._first is None and self.outer is not None and (outside := self.outer.like()) is not None:
            self._first = self.capture(outside)
        return self._first

    def capture(self, outside: fx.Node, *, host: bool = False) -> fx.Node:
        """The input of this body that stands for a node of the outer one."""
        if outside not in self.captured:
            name, source = outside.meta["onnx_name"], outside.meta["source"]
            kind = outside.meta.get("onnx_type")
            inside = self.placeholder(name, source, tap=False, host=host or not holds_numbers(kind))
            if kind is not None:
                inside.meta["onnx_type"] = kind
            self.captured[outside] = inside
        return self.captured[outside]

    def tensor(self, held: Held) -> fx.Node:
        """The FX node that has the value as a tensor."""
        if isinstance(held, OnDevice):
            return held.node
        if id(held) not in self._tensors:
            self._kept.append(held)
            self._tensors[id(held)] = self._stored(held) if isinstance(held, Stored) else self._from_host(held)
        return self._tensors[id(held)]

    def ints(self, held: Held) -> object:
        """The value as Python ints, or the node that has them."""
        if isinstance(held, OnHost):
            return held.value
        if isinstance(held, Stored):
            return held.tensor.numpy().tolist()
        name, source = held.node.meta["onnx_name"], held.node.meta["source"]
        return self.call(runtime.to_ints, (held.node,), name, source, tap=False)

    def number(self, held: Held) -> object:
        """The value as Python numbers where they are known and of torch's default types, else the tensor."""
        if isinstance(held, OnHost) and held.dtype is not oir.DataType.INT32:
            return held.value
        if isinstance(held, Stored) and held.tensor.dtype is oir.DataType.FLOAT and held.tensor.size <= SMALL:
            if held.tensor.size == 0 and len(held.tensor.shape) > 1:
                return self.tensor(held)
            return held.tensor.numpy().tolist()
        return self.tensor(held)

    def _stored(self, held: Stored) -> fx.Node:
        try:
            array = held.tensor.numpy()
        except Exception as error:
            raise ModelError(f"constant {held.name!r}: its data cannot be read: {error}") from error
        path = attach(self.root, held.name, array, trainable=held.trainable, copy=self.copy)
        self.stored[path] = (held.name, held.tensor.dtype)
        if held.trainable:
            self.initializers[held.name] = path
        return marked(self.graph.get_attr(path), held.name, "an initializer")

    def _from_host(self, held: OnHost) -> fx.Node:
        if held.origin is not None:
            return self._stored(held.origin)
        if held.literal:
            path = attach(self.root, held.name, np.array(held.value, dtype=held.dtype.numpy()))
            self.stored[path] = (held.name, held.dtype)
            return marked(self.graph.get_attr(path), held.name, "a folded constant")
        assert isinstance(held.value, fx.Node)
        source = held.value.meta["source"]
        dtype = torch_dtype(held.dtype)
        like = {"like": self.like()}
        return self.call(runtime.as_tensor, (held.value, dtype), held.name, source, tap=False, keywords=like)

    def module(self) -> fx.GraphModule:
        self.graph.lint()
        module = Emitted(self.root, self.graph)
        for node in self.graph.nodes:
            node.meta["written"] = written(node, module)
        module.meta["stored"] = dict(self.stored)
        return module

    def submodule(self, module: fx.GraphModule, kind: str, name: str, source: str) -> fx.Node:
        """Own a branch or loop body; the node that reads it."""
        target = f"{kind}_{self.modules}"
        self.modules += 1
        self.root.add_module(target, module)
        return marked(self.graph.get_attr(target), name, source)


@dataclass(eq=False)
class Scope:
    """The values a node can see. `outer` is the scope around a subgraph; an inlined function has none."""

    body: Body
    opsets: Mapping[str, int]
    prefix: str = ""
    outer: Scope | None = None
    attributes: Mapping[str, oir.Attr] = field(default_factory=dict)
    calls: tuple[oir.OperatorIdentifier, ...] = ()
    values: dict[oir.Value, Held] = field(default_factory=dict)
    names: dict[oir.Value, str] = field(default_factory=dict)
    absent: set[oir.Value] = field(default_factory=set)

    def inside(self, body: Body | None = None) -> Scope:
        """The scope of a subgraph: in a body of its own, or in this one."""
        return Scope(body or self.body, self.opsets, self.prefix, self, self.attributes, self.calls)

    def name(self, value: oir.Value) -> str:
        return self.names.get(value) or f"{self.prefix}{value.name}"

    def held_name(self, value: oir.Value | None, held: Held) -> str:
        """The name under which a constant was stored or arithmetic was written; else the value's own."""
        if isinstance(held, OnDevice):
            return "" if value is None else self.name(value)
        return held.name

    def get(self, value: oir.Value) -> Held:
        """What a value was emitted as, captured from outside where it must be."""
        if value not in self.values:
            if self.outer is None:
                raise ModelError(
                    f"value {value.name!r} is read before any node computes it: the graph is not sorted, has a cycle "
                    "or names a value that does not exist; load the model with tersor.load, which sorts it"
                )
            self.values[value] = self._captured(self.outer.get(value))
        return self.values[value]

    def optional(self, value: oir.Value | None) -> Held | None:
        """What a node's input was emitted as; None where the node or the caller of the function left it out."""
        return None if value is None or value.name == "" or self._is_absent(value) else self.get(value)

    def _is_absent(self, value: oir.Value) -> bool:
        return value in self.absent or (self.outer is not None and self.outer._is_absent(value))

    def _captured(self, held: Held) -> Held:
        assert self.outer is not None
        if self.outer.body is self.body or (isinstance(held, OnHost) and held.literal):
            return held
        if isinstance(held, OnHost):
            assert isinstance(held.value, fx.Node)
            return OnHost(self.body.capture(held.value, host=True), held.dtype, held.static, held.name)
        return OnDevice(self.body.capture(self.outer.body.tensor(held)))


def marked(node: fx.Node, name: str, source: str, *, tap: bool = False) -> fx.Node:
    """Every FX node says which value it computes, which ONNX node asked for it, and whether a tap may show it."""
    node.meta["onnx_name"] = name
    node.meta["source"] = source
    node.meta["tap"] = tap
    return node


def described(held: Held, value: oir.Value) -> None:
    """Note the type and shape that the model declares for the value an FX node computes, in `node.meta`."""
    node = held.node if isinstance(held, OnDevice) else held.value if isinstance(held, OnHost) else None
    if not isinstance(node, fx.Node):
        return
    if value.type is not None:
        node.meta["onnx_type"] = value.type
    if value.shape is not None:
        node.meta["onnx_shape"] = value.shape.copy()


def written(node: fx.Node, module: torch.nn.Module) -> str:
    """A node's call as text, or the type and shape of the weight it reads, kept in `node.meta["written"]`: where it
    differs, the module was edited since."""
    if node.op == "get_attr":
        held = owned(module, str(node.target))
        return f"{held.dtype}{list(held.shape)}" if isinstance(held, torch.Tensor) else ""
    target = node.target if isinstance(node.target, str) else getattr(node.target, "__qualname__", repr(node.target))
    return f"{target}{node.args}{node.kwargs}"


def owned(module: torch.nn.Module, path: str) -> object:
    """What an attribute path leads to. Raises ModelError where that is nowhere."""
    found: object = module
    for part in path.split("."):
        if not hasattr(found, part):
            raise ModelError(f"the module has no {path!r}, which its graph reads")
        found = getattr(found, part)
    return found


def identifier(name: str) -> str:
    """A legal Python name that resembles the given one."""
    text = re.sub(r"\W", "_", name) or "_"
    return f"_{text}" if text[0].isdigit() or keyword.iskeyword(text) else text


def attach(root: torch.nn.Module, name: str, array: np.ndarray, *, trainable: bool = False, copy: bool = False) -> str:
    """Own an array as a parameter (trainable floats), a buffer or, of strings, as it is; its attribute path.

    The dots of a name make submodules, as in the torch module it was once exported from; where that cannot be done
    (a part is no name in Python, or something is in the way) the name is flattened.
    """
    value = strings(array) if array.dtype.kind in "OSU" else to_torch(array)
    *parents, leaf = name.split(".")
    owner: torch.nn.Module | None = root
    parts = (*parents, leaf)
    if parts[0] not in _OWN and all(re.fullmatch(r"\w+", part) and not keyword.iskeyword(part) for part in parts):
        for part in parents:
            owner = _child(owner, part) if owner is not None else None
    else:
        owner = None
    if owner is None or hasattr(owner, leaf):
        owner, leaf = root, identifier(name)
        while hasattr(root, leaf) or leaf in _OWN:
            leaf += "_"
        path = leaf
    else:
        path = name
    if not isinstance(value, torch.Tensor):
        setattr(owner, leaf, value)
        return path
    tensor = value.clone() if copy else value
    if trainable and tensor.is_floating_point():
        owner.register_parameter(leaf, torch.nn.Parameter(tensor))
    else:
        owner.register_buffer(leaf, tensor)
    return path


def _child(owner: torch.nn.Module, part: str) -> torch.nn.Module | None:
    if not hasattr(owner, part):
        owner.add_module(part, torch.nn.Module())
    child = getattr(owner, part)
    return child if isinstance(child, torch.nn.Module) and not isinstance(child, fx.GraphModule) else None
