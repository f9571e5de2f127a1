"""What a module computes from its weights alone: its numbers, its shape, and doing it once instead of at every run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import cast

import torch
from torch import fx

from ..ops.casts import cast as convert
from ..ops.index import cum_sum
from .bits import widen
from .weights import attribute_of, drop_unread, free_name

Tensor = torch.Tensor
_OPERATOR = type(torch.ops.aten.add.Tensor)
_CONVERSIONS = (widen, convert, torch.ops.aten.to.dtype, torch.ops.aten._to_copy.default)
#: Types that every CPU converts about as fast as it reads them; it does not 8-bit floats.
_QUICK = (torch.int8, torch.uint8, torch.float16, torch.bfloat16)
#: What is computed has at most so many elements for each that is stored: a bit for each of a byte, and twice that.
_MOST = 16
#: The argument that only says on which device a new tensor lies.
_LIKE = "like"
_CHECK = torch.ops.aten._assert_tensor_metadata.default
_RUNNING_SUMS = (cum_sum, torch.ops.aten.cumsum.default)


class Constants:
    """The nodes of a module's own graph that depend on no input, on no chance, and change nothing."""

    def __init__(self, module: fx.GraphModule) -> None:
        self._module = module
        self._known: dict[fx.Node, bool] = {}
        self._shapes: dict[fx.Node, object] = {}

    def __contains__(self, node: object) -> bool:
        return isinstance(node, fx.Node) and self._is(node)

    def value(self, node: fx.Node) -> object:
        """What a constant is."""
        return self._run(node, {}, lambda tensor: tensor)

    def meta(self, node: fx.Node) -> Tensor | None:
        """A tensor without numbers, of a constant's type and shape; None where it is no tensor."""
        # a scalar keeps its number, for it may say how large others are
        found = self._run(node, self._shapes, lambda tensor: tensor.to("meta") if tensor.dim() else tensor)
        return found.to("meta") if isinstance(found, Tensor) else None

    def _is(self, node: fx.Node) -> bool:
        # graphs are sorted, so that what a node reads is known, but recursion is as deep as a graph is long
        waiting = [node]
        while waiting:
            top = waiting[-1]
            reads = [each for each in inputs(top) if each not in self._known]
            if top in self._known:
                waiting.pop()
                continue
            if reads:
                waiting += reads
                continue
            self._known[top] = _is_leaf(self._module, top) or (
                _is_pure(top) and all(self._known[each] for each in inputs(top))
            )
        return self._known[node]

    def _run(self, node: fx.Node, done: dict[fx.Node, object], leaf: Callable[[Tensor], Tensor]) -> object:
        waiting = [node]
        while waiting:
            top = waiting[-1]
            reads = [each for each in inputs(top) if each not in done]
            if top in done:
                waiting.pop()
            elif reads:
                waiting += reads
            else:
                done[top] = self._computed(top, done, leaf)
        return done[node]

    def _computed(self, node: fx.Node, done: dict[fx.Node, object], leaf: Callable[[Tensor], Tensor]) -> object:
        if node.op == "get_attr":
            found = attribute_of(self._module, node)
            return leaf(found.detach()) if isinstance(found, Tensor) else found
        given = {name: None if name == _LIKE else value for name, value in node.kwargs.items()}
        args, kwargs = fx.map_arg((node.args, given), done.__getitem__)  # type: ignore[arg-type]
        made = cast(Callable[..., object], node.target)
        with torch.no_grad():
            found = made(*cast(tuple[object, ...], args), **cast(dict[str, object], kwargs))
        # what makes a tensor of nothing makes it where torch makes tensors
        return leaf(found) if isinstance(found, Tensor) else found


def inputs(node: fx.Node) -> list[fx.Node]:
    """What a node reads for its numbers."""
    found: list[fx.Node] = []
    kwargs = {name: value for name, value in node.kwargs.items() if name != _LIKE}
    fx.map_arg((node.args, kwargs), found.append)
    return found


def fold(module: fx.GraphModule) -> int:
    """Compute, once and in place, what is computed from weights alone; how many values were.

    For a module that runs as it stands. A conversion of a stored tensor stays: it costs next to nothing beside the
    product that reads it, and the tensor stays as small as it is.
    """
    return _fold(module, ())


def fold_masks(module: fx.GraphModule) -> int:
    """The same, for what running sums have a part in alone, however large: weights that a mask and what it keeps are
    put together to (`passes.weights.masked`), which no loop decodes as it multiplies.
    """
    return _fold(module, _RUNNING_SUMS)


def _fold(module: fx.GraphModule, through: Collection[object]) -> int:
    """`fold`, of what is computed by way of one of these functions; without any, of all that is not too large."""
    constants = Constants(module)
    made = 0
    for node in list(_computed(module, constants)):
        like, before = constants.meta(node), _before(node)
        if like is None or (through and not any(each.target in through for each in before)):
            continue
        if not through and like.numel() > _MOST * _stored(module, before):
            continue
        value = constants.value(node)
        assert isinstance(value, Tensor)
        name = free_name(module, f"{node.name}_value")
        module.register_buffer(name, value.contiguous())
        with module.graph.inserting_before(node):
            held = module.graph.get_attr(name)
        held.meta.update(node.meta)
        node.replace_all_uses_with(held)
        made += 1
    if made:
        # what is checked at run time is kept, though nobody reads it; of constants the type was checked just now
        for node in [each for each in module.graph.nodes if each.target is _CHECK and inputs(each)[0] in constants]:
            module.graph.erase_node(node)
        module.graph.eliminate_dead_code()
        module.recompile()
        drop_unread(module)
    return made


def _stored(module: fx.GraphModule, nodes: Iterable[fx.Node]) -> int:
    """Elements of the weights among nodes."""
    return sum(cast(Tensor, attribute_of(module, node)).numel() for node in nodes if node.op == "get_attr")


def _before(node: fx.Node) -> set[fx.Node]:
    """A node and all that it is computed from."""
    waiting, seen = [node], {node}
    while waiting:
        fresh = set(inputs(waiting.pop())) - seen
        seen |= fresh
        waiting += fresh
    return seen


def _computed(module: fx.GraphModule, constants: Constants) -> Iterator[fx.Node]:
    """The last constants on the way to what is none."""
    for node in module.graph.nodes:
        made = node.op == "call_function" and node in constants and not _converts(module, node)
        if made and any(user not in constants or _converts(module, user) for user in node.users):
            yield node


def _converts(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node gives a stored tensor another type, and no more."""
    reads = inputs(node)
    return (
        node.target in _CONVERSIONS
        and len(reads) == 1
        and reads[0].op == "get_attr"
        and cast(Tensor, attribute_of(module, reads[0])).dtype in _QUICK
    )


def _is_leaf(module: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "get_attr" and isinstance(attribute_of(module, node), Tensor)


def _is_pure(node: fx.Node) -> bool:
    target = node.target
    if node.op != "call_function":
        return False
    if isinstance(target, _OPERATOR):
        return torch.Tag.nondeterministic_seeded not in target.tags and not target._schema.is_mutable
    return not str(getattr(target, "__module__", "")).endswith((".random", ".control", ".loops"))
