"""Losses: negative log likelihood and softmax cross entropy, with class weights and labels to ignore."""

from __future__ import annotations

import torch
from torch.nn import functional

from ..lowering import Lowering, Table, standard


def nll_loss(
    log_prob: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> torch.Tensor:
    """-log_prob[n, target[n, ...], ...], times its class's weight.

    log_prob [batch, classes, ...], target [batch, ...], weight [classes]. The mean is over the weights of what was not
    ignored. Raises ValueError for a reduction other than none, sum and mean.
    """
    index = target.long()
    kept = None if ignore_index is None else index != ignore_index
    if kept is not None:
        # an ignored label may be no class at all
        index = torch.where(kept, index, 0)
    loss = -log_prob.gather(1, index.unsqueeze(1)).squeeze(1)
    scale = None if weight is None else weight[index]
    if kept is not None:
        loss = torch.where(kept, loss, 0)
        scale = kept.to(loss.dtype) if scale is None else torch.where(kept, scale, 0)
    if weight is not None and scale is not None:
        loss = loss * scale
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    if reduction != "mean":
        raise ValueError(f"reduction is {reduction!r}; ONNX has none, sum and mean")
    return loss.mean() if scale is None else loss.sum() / scale.sum()


def softmax_cross_entropy_loss(
    scores: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
    outputs: int,
) -> object:
    """`nll_loss` of the log softmax over classes, and where asked for the log softmax itself."""
    log_prob = functional.log_softmax(scores, dim=1)
    loss = nll_loss(log_prob, labels, weights, ignore_index=ignore_index, reduction=reduction)
    return loss if outputs == 1 else (loss, log_prob)


LOSS: Table = standard(
    {
        "NegativeLogLikelihoodLoss": nll_loss,
        "SoftmaxCrossEntropyLoss": Lowering(function=softmax_cross_entropy_loss, many=True),
    },
    since=12,
)
