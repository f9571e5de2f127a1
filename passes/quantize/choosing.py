"""Which weight sites a pass takes on, and why it leaves the others: options that every quantizing pass has."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ...ir.constants import is_constant
from ...ir.provenance import scope, sources
from ...ir.site import Kind, Site
from ...ir.text import place
from ..base import Finding, Miss, Outcome

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)

#: A site and why it stays as it is; None where it is taken on.
Verdict = tuple[Site, Miss | None]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What `only`, `ignore` and `smallest` mean.

    only, ignore: glob patterns over site names, kinds (`kind:embedding`) and blocks (`block:3`). smallest: fewest
    weights of a site. kinds: those that are taken on; options: what asks for the others, where anything does.
    """

    kinds: Collection[Kind]
    options: Mapping[Kind, str] = field(default_factory=dict)
    smallest: int = 1024
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    dtypes: Collection[ir.DataType] = FLOATS

    def verdict(self, site: Site) -> Miss | None:
        """Why the site stays as it is."""
        if self.only and not matches(site, self.only):
            return Miss("only", site.name, f"a name like {', '.join(self.only)}")
        if matches(site, self.ignore):
            return Miss("ignore", site.name, f"a name unlike {', '.join(self.ignore)}")
        if site.kind not in self.kinds:
            option, kinds = self.options.get(site.kind), " or ".join(kind.value for kind in self.kinds)
            return Miss("kind", site.kind.value, f"the option {option}=true" if option else f"a site of kind {kinds}")
        return self._unfit(site)

    def _unfit(self, site: Site) -> Miss | None:
        tensor = site.weight.const_value
        if not site.weight.is_initializer() or site.weight.is_graph_input() or tensor is None:
            return Miss("weight", site.name, "an initializer that nobody may override; run fold-constants first")
        if any(node.op_type == "DequantizeLinear" for node in site.view.path) or _is_book(site):
            return Miss("quantized", site.weight.name or "", "weights that are not quantized yet")
        names = ", ".join(dtype.name.lower() for dtype in self.dtypes)
        if tensor.dtype not in self.dtypes:
            return Miss("dtype", tensor.dtype.name.lower(), f"weights of {names}")
        passed = [site.weight, *(node.outputs[0] for node in site.view.path)]
        if site.tied or any(len(value.uses()) > 1 or value.is_graph_output() for value in passed):
            return Miss("tied", ", ".join(site.tied) or site.name, "a weight that one node reads")
        if tensor.size < self.smallest:
            return Miss("size", f"{tensor.size} weights", f"at least {self.smallest}")
        with np.errstate(over="ignore"):
            read = site.view.array()
        kind = ir.DataType.from_numpy(read.dtype)
        if kind not in self.dtypes:
            return Miss("dtype", kind.name.lower(), f"weights that are read as {names}")
        if not np.isfinite(read.astype(np.float32, copy=False)).all():
            return Miss("finite", site.name, "weights without NaN and infinity")
        return None


def _is_book(site: Site) -> bool:
    """Whether a table is looked up by what is the same at every run, as the vectors of a codebook are."""
    if site.kind is not Kind.EMBEDDING:
        return False
    stack, seen = [site.activation], {site.activation}
    while stack:
        value = stack.pop()
        node = value.producer()
        if is_constant(value):
            continue
        if node is None or not any(node.inputs):
            return False
        fresh = {each for each in node.inputs if each is not None} - seen
        seen |= fresh
        stack += fresh
    return True


def matches(site: Site, patterns: Iterable[str]) -> bool:
    """Whether a site's name, `kind:..` or `block:..` fits one of the patterns."""
    block = [] if site.block is None else [f"block:{site.block}"]
    named = [site.name, f"kind:{site.kind.value}", *block]
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns for name in named)


def outcome(verdicts: Sequence[Verdict]) -> Outcome:
    """The findings of a pass, one for each site."""
    return Outcome(
        tuple(
            Finding(f"{site.name} ({place(site.node)})", sources(site.node), miss, scope(site.node))
            for site, miss in verdicts
        )
    )
