"""Ensembles of decision trees: all rows go down all trees at once, one level a step.

The three ops spell their trees in different ways; a `Forest` is what they have in common.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch

from ..lowering import Literal

_MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER")
_AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
_TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


class Forest(NamedTuple):
    """Trees as columns. A child below zero is a leaf: -1 - its number.

    `members` are the values of each membership node, filled up with NaN.
    """

    roots: list[int]
    features: list[int]
    splits: list[float]
    modes: list[int]
    missing: list[int]
    true: list[int]
    false: list[int]
    members: list[list[float]]
    depth: int


def tree_ensemble(
    x: torch.Tensor,
    *,
    tree_roots: tuple[int, ...],
    nodes_featureids: tuple[int, ...],
    nodes_splits: Literal,
    nodes_modes: Literal,
    nodes_truenodeids: tuple[int, ...],
    nodes_falsenodeids: tuple[int, ...],
    nodes_trueleafs: tuple[int, ...],
    nodes_falseleafs: tuple[int, ...],
    leaf_targetids: tuple[int, ...],
    leaf_weights: Literal,
    n_targets: int = 1,
    nodes_missing_value_tracks_true: tuple[int, ...] = (),
    membership_values: Literal | None = None,
    nodes_hitrates: Literal | None = None,
    aggregate_function: int = 1,
    post_transform: int = 0,
) -> torch.Tensor:
    """[batch, features] -> [batch, targets]"""
    modes = cast(list[int], nodes_modes.values)
    true, false = (
        [-1 - child if leaf else child for child, leaf in zip(children, leaves, strict=True)]
        for children, leaves in ((nodes_truenodeids, nodes_trueleafs), (nodes_falsenodeids, nodes_falseleafs))
    )
    members = _members(modes, [] if membership_values is None else cast(list[float], membership_values.values))
    missing = list(nodes_missing_value_tracks_true) or [0] * len(modes)
    forest = Forest(
        list(tree_roots),
        list(nodes_featureids),
        cast(list[float], nodes_splits.values),
        modes,
        missing,
        true,
        false,
        members,
        _depth(list(tree_roots), true, false),
    )
    leaves = _leaves(forest, x)
    weights = torch.tensor(leaf_weights.values, dtype=x.dtype, device=x.device)
    targets = torch.tensor(leaf_targetids, device=x.device)
    found = _aggregated(targets[leaves], weights[leaves], n_targets, _AGGREGATES[aggregate_function], len(tree_roots))
    return post_transformed(found, _TRANSFORMS[post_transform])


def tree_ensemble_regressor(
    x: torch.Tensor,
    *,
    nodes_treeids: tuple[int, ...],
    nodes_nodeids: tuple[int, ...],
    nodes_featureids: tuple[int, ...],
    nodes_modes: tuple[str, ...],
    nodes_truenodeids: tuple[int, ...],
    nodes_falsenodeids: tuple[int, ...],
    target_ids: tuple[int, ...],
    target_treeids: tuple[int, ...],
    target_nodeids: tuple[int, ...],
    target_weights: tuple[float, ...] = (),
    target_weights_as_tensor: Literal | None = None,
    nodes_values: tuple[float, ...] = (),
    nodes_values_as_tensor: Literal | None = None,
    nodes_missing_value_tracks_true: tuple[int, ...] = (),
    nodes_hitrates: tuple[float, ...] = (),
    nodes_hitrates_as_tensor: Literal | None = None,
    base_values: tuple[float, ...] = (),
    base_values_as_tensor: Literal | None = None,
    n_targets: int = 1,
    aggregate_function: str = "SUM",
    post_transform: str = "NONE",
) -> torch.Tensor:
    """[batch, features] -> [batch, targets]"""
    y = x if x.is_floating_point() else x.to(torch.float32)
    forest, leaf_of = _numbered(
        nodes_treeids,
        nodes_nodeids,
        nodes_featureids,
        nodes_modes,
        nodes_truenodeids,
        nodes_falsenodeids,
        _numbers(nodes_values, nodes_values_as_tensor),
        nodes_missing_value_tracks_true,
    )
    targets, weights = _votes(
        forest,
        leaf_of,
        y,
        target_treeids,
        target_nodeids,
        target_ids,
        _numbers(target_weights, target_weights_as_tensor),
    )
    found = _aggregated(targets, weights, n_targets, aggregate_function, len(forest.roots))
    base = _numbers(base_values, base_values_as_tensor)
    if base:
        found = found + torch.tensor(base, dtype=found.dtype, device=x.device)
    return post_transformed(found, post_transform).to(torch.float32)


def tree_ensemble_classifier(
    x: torch.Tensor,
    *,
    nodes_treeids: tuple[int, ...],
    nodes_nodeids: tuple[int, ...],
    nodes_featureids: tuple[int, ...],
    nodes_modes: tuple[str, ...],
    nodes_truenodeids: tuple[int, ...],
    nodes_falsenodeids: tuple[int, ...],
    class_ids: tuple[int, ...],
    class_treeids: tuple[int, ...],
    class_nodeids: tuple[int, ...],
    class_weights: tuple[float, ...] = (),
    class_weights_as_tensor: Literal | None = None,
    classlabels_int64s: tuple[int, ...] = (),
    classlabels_strings: tuple[str, ...] = (),
    nodes_values: tuple[float, ...] = (),
    nodes_values_as_tensor: Literal | None = None,
    nodes_missing_value_tracks_true: tuple[int, ...] = (),
    nodes_hitrates: tuple[float, ...] = (),
    nodes_hitrates_as_tensor: Literal | None = None,
    base_values: tuple[float, ...] = (),
    base_values_as_tensor: Literal | None = None,
    post_transform: str = "NONE",
    outputs: int,
) -> object:
    """Labels [batch] and scores [batch, classes]; votes for one class of two count against the other."""
    y = x if x.is_floating_point() else x.to(torch.float32)
    forest, leaf_of = _numbered(
        nodes_treeids,
        nodes_nodeids,
        nodes_featureids,
        nodes_modes,
        nodes_truenodeids,
        nodes_falsenodeids,
        _numbers(nodes_values, nodes_values_as_tensor),
        nodes_missing_value_tracks_true,
    )
    votes = _numbers(class_weights, class_weights_as_tensor)
    targets, weights = _votes(forest, leaf_of, y, class_treeids, class_nodeids, class_ids, votes)
    labels: Sequence[int] | Sequence[str] = classlabels_int64s or classlabels_strings
    found = _aggregated(targets, weights, len(labels), "SUM", len(forest.roots))
    base = _numbers(base_values, base_values_as_tensor)
    if base:
        found = found + torch.tensor(base, dtype=found.dtype, device=x.device)
    if len(set(class_ids)) == 1 and len(labels) <= 2:
        score = found[:, class_ids[0]]
        # a share of votes, or a margin where some count against
        shares = post_transform == "PROBIT" or (post_transform == "NONE" and min(votes) >= 0)
        other = 1 - score if shares else -score
        found = torch.stack([other, score], -1)
    scores = post_transformed(found, post_transform)
    label = labelled(scores.argmax(-1), labels if len(labels) > 1 else (0, *labels))
    return label if outputs == 1 else (label, scores.to(torch.float32))


def labelled(index: torch.Tensor, labels: Sequence[int] | Sequence[str]) -> np.ndarray | torch.Tensor:
    """The labels at these places: strings or int64; the places themselves where there are none."""
    if not labels:
        return index
    if isinstance(labels[0], str):
        return np.asarray(np.array(labels, dtype=object)[index.cpu().numpy()], dtype=object)
    return torch.tensor(labels, dtype=torch.int64, device=index.device)[index]


def post_transformed(scores: torch.Tensor, kind: str) -> torch.Tensor:
    """Scores [batch, classes] after a transform; SOFTMAX_ZERO leaves zeros out. Raises ValueError for another."""
    if kind == "NONE":
        return scores
    if kind == "SOFTMAX":
        return scores.softmax(-1)
    if kind == "LOGISTIC":
        return scores.sigmoid()
    if kind == "PROBIT":
        return math.sqrt(2) * torch.erfinv(2 * scores - 1)
    if kind != "SOFTMAX_ZERO":
        raise ValueError(f"post_transform is {kind!r}; ONNX has {', '.join(_TRANSFORMS)}")
    top = scores.amax(-1, keepdim=True)
    shares = torch.where(scores.abs() > 1e-7, torch.exp(scores - top), scores * torch.exp(-top))
    total = shares.sum(-1, keepdim=True)
    return torch.where(total == 0, 0.5, shares / torch.where(total == 0, 1, total))


def _leaves(forest: Forest, x: torch.Tensor) -> torch.Tensor:
    """The leaf that each row ends at: [batch, trees]."""
    column = functools.partial(torch.tensor, device=x.device)
    features, modes = column(forest.features), column(forest.modes)
    splits, missing = column(forest.splits, dtype=x.dtype), column(forest.missing, dtype=torch.bool)
    children = torch.stack([column(forest.false), column(forest.true)], -1)
    members = column(forest.members, dtype=x.dtype) if any(forest.members) else None
    at = column(forest.roots).expand(x.shape[0], -1)
    for _ in range(forest.depth):
        node = at.clamp(min=0)
        value, split, mode = x.gather(1, features[node]), splits[node], modes[node]
        go = torch.where(mode == 0, value <= split, value < split)
        for code, passes in ((2, value >= split), (3, value > split), (4, value == split), (5, value != split)):
            go = torch.where(mode == code, passes, go)
        if members is not None:
            go = torch.where(mode == 6, (value.unsqueeze(-1) == members[node]).any(-1), go)
        go = torch.where(value.isnan(), missing[node] | (go & (mode == 5)), go)
        step = children[node].gather(-1, go.long().unsqueeze(-1)).squeeze(-1)
        at = torch.where(at < 0, at, step)
    return -1 - at


def _aggregated(targets: torch.Tensor, weights: torch.Tensor, count: int, function: str, trees: int) -> torch.Tensor:
    """Votes [batch, votes] for targets, gathered to [batch, targets]; those for target -1 are for nobody."""
    how = {"SUM": "sum", "AVERAGE": "sum", "MIN": "amin", "MAX": "amax"}.get(function)
    if how is None:
        raise ValueError(f"aggregate_function is {function!r}; ONNX has {', '.join(_AGGREGATES)}")
    start = weights.new_zeros(weights.shape[0], count + 1)
    index = torch.where(targets < 0, count, targets)
    found = start.scatter_reduce(1, index, weights, how, include_self=how == "sum")[:, :count]
    return found / trees if function == "AVERAGE" else found


def _members(modes: Sequence[int], values: Sequence[float]) -> list[list[float]]:
    groups: list[list[float]] = [[]]
    for value in values:
        if math.isnan(value):
            groups.append([])
        else:
            groups[-1].append(value)
    given = iter(groups)
    rows = [next(given, []) if mode == 6 else [] for mode in modes]
    longest = max(map(len, rows), default=0)
    return [row + [math.nan] * (longest - len(row)) for row in rows]


def _depth(roots: Sequence[int], true: Sequence[int], false: Sequence[int]) -> int:
    """Nodes on the longest way down. Raises ValueError for a tree that goes in circles."""
    depth, level = 0, {root for root in roots if root >= 0}
    while level:
        depth += 1
        if depth > len(true):
            raise ValueError("a tree's nodes go in circles; expected every branch to end in a leaf")
        level = {child for node in level for child in (true[node], false[node]) if child >= 0}
    return depth


Leaf = dict[tuple[int, int], int]


def _numbered(
    trees: tuple[int, ...],
    nodes: tuple[int, ...],
    features: tuple[int, ...],
    modes: tuple[str, ...],
    true: tuple[int, ...],
    false: tuple[int, ...],
    values: Sequence[float],
    missing: tuple[int, ...],
) -> tuple[Forest, Leaf]:
    """A forest whose nodes are known by tree and number, and the leaves' numbers in it."""
    inner: Leaf = {}
    leaves: Leaf = {}
    for tree, node, mode in zip(trees, nodes, modes, strict=True):
        kind = leaves if mode == "LEAF" else inner
        kind[tree, node] = len(kind)
    place = inner | {key: -1 - i for key, i in leaves.items()}
    kept = [i for i, mode in enumerate(modes) if mode != "LEAF"]
    yes, no = ([place[trees[i], children[i]] for i in kept] for children in (true, false))
    first = {tree: place[tree, node] for tree, node in reversed(list(zip(trees, nodes, strict=True)))}
    roots = [first[tree] for tree in sorted(first)]
    forest = Forest(
        roots,
        [features[i] for i in kept] or [0],
        [values[i] for i in kept] or [0.0],
        [_MODES.index(modes[i]) for i in kept] or [0],
        [missing[i] if missing else 0 for i in kept] or [0],
        yes or [-1],
        no or [-1],
        [[]],
        _depth(roots, yes, no),
    )
    return forest, leaves


def _votes(
    forest: Forest,
    leaf_of: Leaf,
    x: torch.Tensor,
    trees: tuple[int, ...],
    nodes: tuple[int, ...],
    targets: tuple[int, ...],
    weights: Sequence[float],
) -> tuple[torch.Tensor, torch.Tensor]:
    """The votes of the leaves that each row ends at, as targets and weights: [batch, votes] each."""
    rows: list[list[int]] = [[] for _ in range(max(len(leaf_of), 1))]
    for i, key in enumerate(zip(trees, nodes, strict=True)):
        rows[leaf_of[key]].append(i)
    longest = max(map(len, rows))
    nobody = len(targets)
    table = torch.tensor([row + [nobody] * (longest - len(row)) for row in rows], device=x.device)
    votes = table[_leaves(forest, x)].flatten(1)
    target = torch.tensor([*targets, -1], device=x.device)[votes]
    weight = torch.tensor([*weights, 0.0], dtype=x.dtype, device=x.device)[votes]
    return target, weight


def _numbers(floats: tuple[float, ...], doubles: Literal | None) -> Sequence[float]:
    return floats if doubles is None else cast(list[float], doubles.values)
