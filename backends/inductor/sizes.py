"""The sizes that a package takes: what torch.export took for granted of them holds, and none is 0.

A condition is text over the inputs' shapes, `shapes[0][1] + 64 >= 256`: arithmetic and comparisons, nothing else.
Code that was compiled under a condition reads and writes beyond its memory where that does not hold.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy

from ...ir.errors import ModelError
from ...ir.level import Signature

Shapes = tuple[tuple[int, ...], ...]
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.USub, ast.Not, ast.And, ast.Or)
_COMPARED = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_CALLED: Mapping[str, Callable[..., int | float]] = {
    **dict.fromkeys(("min", "Min"), min),
    **dict.fromkeys(("max", "Max"), max),
    **dict.fromkeys(("Mod", "PythonMod"), operator.mod),
    **dict.fromkeys(("FloorDiv", "CleanDiv"), operator.floordiv),
    "abs": abs,
}

#: Shapes that are remembered to fit.
_MOST = 1024


class Sizes:
    """The conditions on the shapes of a package's inputs."""

    def __init__(self, conditions: Sequence[str], signature: Signature) -> None:
        """Raises ValueError for a condition that cannot be read, or is on what is no size of an input."""
        parsed = [parse(text) for text in conditions]
        ones = tuple(tuple(1 for _ in port.shape or ()) for port in signature.inputs)
        for text, condition in zip(conditions, parsed, strict=True):
            try:
                holds(condition, ones)
            except (IndexError, TypeError) as error:
                raise ValueError(f"{text!r} is not on sizes of the inputs") from error
        self._conditions = [condition for condition in parsed if not is_of_one(condition)]
        self._signature = signature
        self._fit: set[Shapes] = set()

    def check(self, shapes: Shapes) -> None:
        """Raise ModelError unless a package takes inputs of these shapes."""
        if shapes in self._fit:
            return
        wrong = [*self._empty(shapes), *self._broken(shapes)]
        if wrong:
            raise ModelError(
                f"the package was not compiled for these sizes: {'; '.join(wrong)}. "
                "The target torch takes every size that the model takes"
            )
        if len(self._fit) >= _MOST:
            self._fit.clear()
        self._fit.add(shapes)

    def _empty(self, shapes: Shapes) -> list[str]:
        return [
            f"{port.name!r} has size 0 on axis {axis}, and dynamic sizes are 1 or more"
            for port, shape in zip(self._signature.inputs, shapes, strict=True)
            for axis, size in enumerate(shape)
            if size == 0 and port.shape is not None and not isinstance(port.shape[axis], int)
        ]

    def _broken(self, shapes: Shapes) -> list[str]:
        """Each condition that does not hold, in the dimensions' own names, and the sizes in it."""
        found = []
        for condition in self._conditions:
            if not holds(condition, shapes):
                named = _Named(self._signature, shapes)
                text = ast.unparse(named.visit(deepcopy(condition)))
                found.append(f"{text} does not hold for {', '.join(f'{k} = {v}' for k, v in named.sizes.items())}")
        return list(dict.fromkeys(found))


def parse(text: str) -> ast.expr:
    """A condition as an expression. Raises ValueError where it is anything but arithmetic and comparisons."""
    try:
        found = ast.parse(text, mode="eval").body
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text!r} is no condition on sizes") from error
    for node in ast.walk(found):
        if isinstance(node, ast.expr | ast.operator | ast.unaryop | ast.cmpop | ast.boolop) and not _known(node):
            raise ValueError(f"{text!r} is more than arithmetic on shapes")
    return found


def is_of_one(condition: ast.expr) -> bool:
    """Whether a condition only says that a size is not 1.

    torch.export asks where it decides against broadcasting. What is compiled then is right for 1 as well: what meets
    that size has the same one, by a condition of its own.
    """
    match condition:
        case ast.Compare(ops=[ast.NotEq()], comparators=[ast.Constant(value=1)]):
            return True
    return False


def holds(condition: ast.expr, shapes: Shapes) -> bool:
    """Whether a parsed condition is true of these shapes; one that divides by zero is not.

    >>> holds(parse("(shapes[0][1] + 64) // 128 >= 2 and shapes[0][0] != 1"), ((3, 200),))
    True
    """
    code = compile(ast.Expression(condition), "<condition>", "eval")
    try:
        # `parse` has let nothing through but arithmetic on `shapes`
        return bool(eval(code, {"__builtins__": {}, "shapes": shapes, **_CALLED}))
    except ZeroDivisionError:
        return False


def _known(node: ast.AST) -> bool:
    match node:
        case ast.Constant(value=value):
            return isinstance(value, int | float)
        case ast.Name(id=name):
            return name == "shapes" or name in _CALLED
        case ast.Subscript(value=ast.Name(id="shapes") | ast.Subscript(), slice=ast.Constant(value=int())):
            return True
        case ast.Call(func=ast.Name(id=name), keywords=[]):
            return name in _CALLED
        case ast.BinOp() | ast.UnaryOp() | ast.BoolOp() | ast.Compare():
            return True
    return isinstance(node, _ARITHMETIC + _COMPARED)


class _Named(ast.NodeTransformer):
    """Puts the dimensions' names for `shapes[0][1]`, and gathers their sizes."""

    def __init__(self, signature: Signature, shapes: Shapes) -> None:
        self._signature = signature
        self._shapes = shapes
        self.sizes: dict[str, int] = {}

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        match node.value, node.slice:
            case ast.Subscript(slice=ast.Constant(value=int(place))), ast.Constant(value=int(axis)):
                port, size = self._signature.inputs[place], self._shapes[place][axis]
                dim = port.shape[axis] if port.shape is not None else None
                name = dim if isinstance(dim, str) else f"{port.name}.shape[{axis}]"
                if self.sizes.setdefault(name, size) != size:
                    name = f"{port.name}.shape[{axis}]"
                    self.sizes[name] = size
                return ast.Name(name)
        return node
