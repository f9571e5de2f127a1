"""What a table entry is, and how an entry is found for an op at an opset.

A value of the graph lives in one of two places. On the *device* it is a torch tensor. On the *host* it is shape
arithmetic: an int or bool (or a SymInt under `torch.export`), or a list of them nested as deep as the value has axes.
An op has a `Lowering` for tensors and may have a `HostLowering` for the other kind; the latter is taken where all
inputs are on the host, so that shapes never pass through tensors.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import onnx_ir as oir

from ..errors import PassError

Function = Callable[..., object]
Key = tuple[str, str, int]
"""(domain, op, since version); the domain of the standard ops is the empty string."""


@dataclass(frozen=True, kw_only=True)
class Lowering:
    """An op as a Python function on tensors, called with the op's inputs by position and its attributes by name.

    Attribute names are given in snake case (`transA` is `trans_a`), tensor attributes as `Literal`.

    ints      inputs that arrive as Python ints, read off the tensor where they must be
    numbers   inputs that arrive as Python numbers where they are constants or shape arithmetic, else as tensors
    many      the op has several outputs: the function is told `outputs=` how many are wanted and returns
              the value where it is one, a tuple where there are more
    like      the function makes a tensor out of nothing: it gets `like=`, a tensor on the right device
    host      the function returns host values, of this type
    typed     the input whose ONNX type the function is told as `dtype=`, for types that torch stores unpacked
    strings   the first output is a tensor of strings
    """

    function: Function
    ints: tuple[int, ...] = ()
    numbers: tuple[int, ...] = ()
    many: bool = False
    like: bool = False
    host: oir.DataType | None = None
    typed: int | None = None
    strings: bool = False


@dataclass(frozen=True, kw_only=True)
class HostLowering:
    """An op as a Python function on nested lists of ints.

    dtype    of the result: a type, or the number of the input whose type it has
    static   inputs that must not depend on a dimension's size (only on ranks): they decide lengths or select elements,
             so a symbolic int there would tie the graph to one size
    lengths  the result depends on how many elements the input has, not on what they are
    grows    the result may be larger than the inputs, so only small ones are computed here
    """

    function: Function
    dtype: oir.DataType | int = 0
    static: tuple[int, ...] = ()
    many: bool = False
    lengths: bool = False
    grows: bool = False


class Literal(NamedTuple):
    """A tensor attribute: nested lists of Python numbers and their ONNX type."""

    values: object
    dtype: int


ZERO = Literal([0.0], oir.DataType.FLOAT.value)

FAILURES = (
    RuntimeError,
    LookupError,
    ValueError,
    TypeError,
    AssertionError,
    ArithmeticError,
    AttributeError,
    MemoryError,
)
"""What Python and torch raise over an op that cannot be read or run; a KeyError is a text that no table has."""


Table = Mapping[Key, Lowering]
HostTable = Mapping[Key, HostLowering]
Entry = TypeVar("Entry")


def standard(entries: Mapping[str, Function | Lowering], *, domain: str = "", since: int = 1) -> dict[Key, Lowering]:
    """A family's rows that share a domain and a since version; a bare function is a `Lowering` of all tensors."""
    return {
        (domain, name, since): entry if isinstance(entry, Lowering) else Lowering(function=entry)
        for name, entry in entries.items()
    }


def merged(*tables: Mapping[Key, Entry]) -> dict[Key, Entry]:
    """One table out of several. Raises PassError when two of them claim the same row."""
    result: dict[Key, Entry] = {}
    for table in tables:
        for key, entry in table.items():
            if key in result:
                domain, op, since = key
                raise PassError(f"ir/fx: two tables have a row for {domain or 'ai.onnx'}.{op} since {since}; keep one")
            result[key] = entry
    return result


def lookup(table: Mapping[Key, Entry], domain: str, op: str, opset: int) -> Entry | None:
    """The row with the greatest since version that is not beyond the opset."""
    return next((table[key] for since in range(opset, 0, -1) if (key := (domain, op, since)) in table), None)


def keywords(function: Function) -> frozenset[str]:
    """The names a function can be given attributes by: all its parameters, as older opsets have attributes where newer
    ones have inputs. torch's own functions are given none."""
    if not inspect.isfunction(function):
        return frozenset()
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return frozenset(name for name, spec in inspect.signature(function).parameters.items() if spec.kind in kinds)
