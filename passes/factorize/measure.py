"""What errors of weights cost, as each algorithm counts them: by inputs, by outputs, by the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx_ir as ir

from .. import importance
from ..accumulators import AbsMean
from ..base import Context
from ..drop import Drop, Form
from ..gradients import reached
from ..numerics.arrays import Floats
from ..numerics.low_rank import Spectrum, spectrum
from ..seen import Seen, inputs
from ..statistics import Want
from .groups import Group
from .methods.residual import Metric

Algorithm = Literal["auto", "svd", "scaled", "fisher", "whitened", "kronecker"]
#: Those that ask for derivatives.
_DERIVED = ("fisher", "kronecker")


@dataclass(frozen=True, eq=False)
class Measure:
    """What calibration says of groups, by what `Group.key` is.

    seen: what each group reads. scales: the mean magnitude of that, [in]. rows: what an error of a row costs, [in], by
    weight. outputs: what errors of the outputs of a group cost, [out, out].
    """

    algorithm: Algorithm
    seen: Mapping[ir.Node, Seen] = field(default_factory=dict)
    scales: Mapping[ir.Node, Floats] = field(default_factory=dict)
    rows: Mapping[ir.Value, Floats] = field(default_factory=dict)
    outputs: Mapping[ir.Node, Floats] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: ir.Model,
        every: Sequence[Group],
        algorithm: Algorithm,
        context: Context,
        *,
        drop: Form,
        probes: int,
        compared: bool,
    ) -> Measure:
        """compared: losses of groups are held against each other, so that what they do to the answers is asked for."""
        if context.calibration is None or not every:
            return cls(algorithm)
        known = inputs(model, [each.first for each in every], context)
        seen = {each.key: known[each.first.weight] for each in every}
        weights = [site.weight for each in every for site in each.sites]
        able = reached(model, weights).issuperset(weights)
        if algorithm == "auto":
            algorithm = "kronecker" if able else "whitened"
        form = Drop.of(model, drop) if algorithm in _DERIVED or (able and compared) else None
        rows: Mapping[ir.Value, Floats] = {}
        outputs: Mapping[ir.Node, Floats] = {}
        scales: Mapping[ir.Node, Floats] = {}
        if algorithm == "fisher" and form is not None:
            rows = importance.rows(model, [site for each in every for site in each.sites], context, form, probes)
        if form is not None and (algorithm == "kronecker" or compared):
            grams = {each.first.weight: seen[each.key].gram for each in every}
            found = importance.columns(model, [each.sites for each in every], grams, context, form, probes)
            outputs = {each.key: matrix for each, matrix in zip(every, found, strict=True)}
        if algorithm == "scaled":
            wants = {each.key: _magnitude(each) for each in every}
            statistics = context.statistics(model, wants.values())
            scales = {key: np.sqrt(statistics.of(want.value, AbsMean, want.axis).mean) for key, want in wants.items()}
        return cls(algorithm, seen, scales, rows, outputs)

    def spectrum(self, group: Group, weight: Floats, part: slice | None, gram: Floats | None = None) -> Spectrum:
        """Of some columns of the group's weight, all unless told.

        weight: of these columns alone, [in, out]. gram: of what the group reads now, where that is no more what was
        seen.
        """
        metric = self.metric(group, part, gram)
        return spectrum(weight, inputs=metric.inputs, outputs=metric.outputs, damping=importance.DAMPING)

    def before(self, group: Group, part: slice | None, gram: Floats | None = None) -> Floats | None:
        """What an error of the inputs' rows costs, as `low_rank.spectrum` takes it."""
        if self.algorithm in ("whitened", "kronecker"):
            return self.seen[group.key].gram if gram is None else gram
        if self.algorithm == "scaled":
            return self.scales[group.key]
        if self.algorithm == "fisher":
            squares = np.sum([self.rows[site.weight] ** 2 for site in group.of(part)], axis=0)
            root: Floats = np.sqrt(squares)
            return root
        return None

    def after(self, group: Group, part: slice | None) -> Floats | None:
        """What errors of outputs cost the answers, [out, out], where that is known."""
        whole = self.outputs.get(group.key)
        return whole if whole is None or part is None else whole[part, part]

    def metric(self, group: Group, part: slice | None, gram: Floats | None = None) -> Metric:
        """What the algorithm counts an error as. gram: as of `spectrum`."""
        after = self.after(group, part) if self.algorithm == "kronecker" else None
        return Metric(self.before(group, part, gram), after)

    def lost(self, group: Group, weight: Floats, found: Spectrum, part: slice | None) -> Floats:
        """What the answers lose by each rank of some columns, from 0 on; where nothing is known of them, the share of
        the energy of the group's weight, [in, out], that goes.
        """
        after = self.after(group, part)
        lost = found.lost
        if after is not None and self.algorithm != "kronecker":
            lost = found.weighed(self.seen[group.key].gram, after)
        floats: Floats = lost / self._most(group, weight)
        return floats

    def lost_by(self, group: Group, weight: Floats, error: Floats, part: slice | None) -> float:
        """The same of an error of some columns."""
        after = self.after(group, part)
        metric = self.metric(group, part) if after is None else Metric(self.seen[group.key].gram, after)
        return metric.cost(error) / self._most(group, weight)

    def _most(self, group: Group, weight: Floats) -> float:
        """What errors are counted in."""
        return 2.0 if self.after(group, None) is not None else self.metric(group, None).cost(weight) or 1.0


def _magnitude(group: Group) -> Want:
    return Want(group.first.activation, AbsMean, group.inputs, axis=group.first.axis)
