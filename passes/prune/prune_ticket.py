"""Set to zero the weights that a lottery ticket leaves out.

    before   y = x @ W                  W [384, 1536]
    after    y = x @ Unmask(kept, mask)     the weights of W that the ticket's mask keeps

Lossy; exact where the weights are those that the ticket was trained to. A mask finds its weight by name: initializers
are called as the parameters they were traced from, `<parameter>.T` where they are stored transposed. Those of recurrent
layers, whose gates stand in another order and whose directions are joined, are found by the module that their node
comes from. Shapes tell whether a weight has been turned since, of square weights how their node reads them, or the
zeros that are there already. The mask and the numbers that are kept are stored (`weights.masked`) where that is
smaller; runtimes decode them once, when they load the model, and multiply dense. Left alone: masks whose name or shape
fits nothing, and weights that are no floats, that graph inputs may override or that are pruned already. Source: Frankle
and Carbin, The Lottery Ticket Hypothesis, 2019.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from ...ir.constants import tensor_of
from ...ir.errors import OptionError, nearest
from ...ir.provenance import scope
from ...ir.site import Kind, Site, sites
from ...ir.walk import every_node
from ..base import Context, Contract, Finding, Lossy, Miss, Outcome, Pass
from ..choosing import FLOATS, Choice
from ..edit import declare_functions
from ..placing import matrix, put
from ..weights import Masked
from .methods.patterns import Bools

#: In the file, the names of parameters whose first axis is what they give rise to: weights of torch's layers.
_ROWS = "tersor:rows"

#: Where ONNX's gates stand in torch's order: i o f c in i f c o, z r h in r z h.
_GATES: Mapping[str, tuple[int, ...]] = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}

#: Of sites whose weight can be stored in another way.
_ANY = Choice(kinds=tuple(Kind), smallest=0)


@dataclass(frozen=True, kw_only=True)
class PruneTicket(Pass):
    """the weights that a lottery ticket leaves out to zero

    masks: an `.npz` file of booleans by parameter, true where a weight stays, as `tersor.lottery` saves them; without
        one, the pass does nothing.
    storage: `mask` stores what is kept and a mask, where that is smaller; `dense` zeros and all, for passes behind.
    """

    name: ClassVar[str] = "prune-ticket"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=0.05)
    masks: str = ""
    storage: Literal["mask", "dense"] = "mask"

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        if not self.masks:
            return Outcome()
        masks, rows = _read(Path(self.masks).expanduser())
        weights = list(_weights(model))
        known = {parameter for weight in weights for parameter in weight.parameters}
        readers = _readers(model)
        findings = [
            self._pruned(weight, masks, rows, readers.get(weight.value, []))
            for weight in weights
            if masks.keys() & set(weight.parameters)
        ]
        declare_functions(model)
        lost = (
            Miss("name", name, f"a weight of that name; {nearest(name, known)}") for name in masks if name not in known
        )
        return Outcome((*findings, *(Finding(miss.value, miss=miss) for miss in lost)))

    def _pruned(
        self, weight: _Weight, masks: Mapping[str, Bools], rows: Collection[str], readers: list[Site]
    ) -> Finding:
        place = weight.value.name or ""
        stored = tensor_of(weight.value)
        if stored is None:
            return Finding(place, miss=Miss("weight", place, "an initializer that nobody may override"))
        if stored.dtype not in FLOATS:
            return Finding(place, miss=Miss("dtype", stored.dtype.name.lower(), "floats; prune before quantizing"))
        mask = weight.mask(masks, rows, readers)
        if isinstance(mask, Miss):
            return Finding(place, miss=mask)
        before = stored.numpy()
        after = np.where(mask, before, np.zeros((), before.dtype))
        changed = np.count_nonzero(before) - np.count_nonzero(after)
        if changed:
            weight.value.const_value = ir.Tensor(after, dtype=stored.dtype, name=weight.value.name)
        told = f"{1 - mask.mean():.1%} pruned, {changed:,} of them were no zeros"
        if self.storage == "mask" and readers and _ANY.verdict(readers[0]) is None:
            dense = matrix(readers[0])
            masked = Masked.of(dense, dense != 0)
            if masked.bytes < stored.nbytes:
                put(readers[0], masked)
                return Finding(place, chosen=f"{told}; {masked.bytes:,} of {stored.nbytes:,} bytes")
        if not changed:
            return Finding(place, miss=Miss("zeros", f"{1 - mask.mean():.1%} pruned already", "weights that change"))
        return Finding(place, chosen=f"{told}; stored dense")


@dataclass(frozen=True)
class _Weight:
    """An initializer, and the parameters of torch that lie in it.

    parameters: by name the index of where in the stored array, and the order of gates; none for one that is all of it.
    """

    value: ir.Value
    parameters: Mapping[str, tuple[tuple[int | slice, ...], tuple[int, ...]] | None]

    def mask(self, masks: Mapping[str, Bools], rows: Collection[str], readers: list[Site]) -> Bools | Miss:
        """The mask of all that is stored, as it is stored."""
        shape = tuple(self.value.shape.numpy()) if self.value.shape is not None else ()
        whole: Bools = np.ones(shape, np.bool_)
        for name, lying in self.parameters.items():
            if name not in masks:
                continue
            if lying is None:
                return _turned(name, masks[name], self.value, name in rows, readers)
            index, gates = lying
            given, wanted = masks[name], whole[index].shape
            if given.shape != wanted:
                return Miss("shape", f"{name} {list(given.shape)}", f"a mask of shape {list(wanted)}")
            whole[index] = given.reshape(len(gates), -1, *given.shape[1:])[list(gates)].reshape(wanted)
        return whole


def _weights(model: ir.Model) -> Iterator[_Weight]:
    """Initializers that parameters can be looked for in."""
    for graph in (model.graph, *model.graph.subgraphs()):
        for name, value in graph.initializers.items():
            yield _Weight(value, {name.removesuffix(".T"): None})
    layers: Counter[str] = Counter()
    for node in every_node(model.graph):
        if node.domain == "" and node.op_type in _GATES:
            yield from _recurrent(node, layers[scope(node)])
            layers[scope(node)] += 1


def _recurrent(node: ir.Node, layer: int) -> Iterator[_Weight]:
    """The weights and biases of a recurrent node as those of a layer of its module."""
    gates, path = _GATES[node.op_type], f"{scope(node)}.".lstrip(".")
    for place, kinds in ((1, ("weight_ih",)), (2, ("weight_hh",)), (3, ("bias_ih", "bias_hh"))):
        value = node.inputs[place] if place < len(node.inputs) else None
        tensor = tensor_of(value)
        if value is None or tensor is None or not value.is_initializer():
            continue
        size = tensor.shape.numpy()[1] // len(kinds)
        yield _Weight(
            value,
            {
                f"{path}{kind}_l{layer}{'_reverse' * direction}": (
                    (direction, slice(half * size, (half + 1) * size)),
                    gates,
                )
                for direction in range(int(tensor.shape.numpy()[0]))
                for half, kind in enumerate(kinds)
            },
        )


def _turned(name: str, mask: Bools, value: ir.Value, rows: bool, readers: list[Site]) -> Bools | Miss:
    """The mask of a parameter the way round that its initializer is stored.

    rows: whether its first axis is known to be what the layer gives.
    """
    stored = tensor_of(value)
    assert stored is not None
    shape = tuple(stored.shape.numpy())
    if mask.ndim > 2 and len(shape) == 2 and mask[0, 0].size == 1:
        # a convolution of one tap is a linear layer
        mask = mask.reshape(mask.shape[:2])
        rows = True
    if shape not in (mask.shape, mask.shape[::-1]) or (mask.ndim > 2 and shape != mask.shape):
        return Miss("shape", f"{name} {list(mask.shape)}", f"a mask of shape {list(shape)}, or turned")
    if mask.ndim != 2 or shape[0] != shape[1]:
        return mask if shape == mask.shape else mask.T
    if value.name == f"{name}.T":
        return mask.T
    if rows and readers and readers[0].kind is Kind.LINEAR:
        return mask if readers[0].transposed else mask.T
    if any(site.kind is Kind.EMBEDDING and not site.transposed for site in readers):
        # rows are looked up in the first axis, by torch too
        return mask
    if (mask == mask.T).all():
        return mask
    # where both are zero already, either changes nothing
    found = next((way for way in (mask, mask.T) if not stored.numpy()[~way].any()), None)
    need = "a weight whose shape, reader or zeros tell which way round it is"
    return Miss("turned", f"{name} {list(shape)}", need) if found is None else found


def _readers(model: ir.Model) -> dict[ir.Value, list[Site]]:
    found: dict[ir.Value, list[Site]] = {}
    for site in sites(model):
        found.setdefault(site.weight, []).append(site)
    return found


def _read(path: Path) -> tuple[dict[str, Bools], frozenset[str]]:
    """Masks by parameter, and the parameters whose first axis is what they give rise to."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            held = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise OptionError(
            f"prune-ticket: cannot read masks from {path}: {error}; expected an .npz file that Lottery.save_masks wrote"
        ) from error
    rows = frozenset(str(name) for name in held.pop(_ROWS, np.array([], np.str_)))
    wrong = [f"{name} ({array.dtype})" for name, array in held.items() if array.dtype != np.bool_]
    if wrong or not held:
        raise OptionError(
            f"prune-ticket: {path}: expected booleans by the name of a parameter, found {', '.join(wrong) or 'nothing'}"
        )
    return held, rows
