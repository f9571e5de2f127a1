"""What every lowering begins with: passes that only take nodes away."""

from __future__ import annotations

from ..pipeline import Pipeline
from .fold_attention_scale import FoldAttentionScale
from .fold_bias import FoldBias
from .fold_embedding_bias import FoldEmbeddingBias
from .fold_scale import FoldScale
from .sink_transposes import SinkTransposes

#: Transposes first, between which constants and layers may lie, then attention, whose scale takes a number in without
#: touching a weight. A scale behind a layer is folded before the bias behind it is reached, one in front after the bias
#: in between has gone.
FOLDING = Pipeline(
    label="fold",
    steps=(SinkTransposes(), FoldAttentionScale(), FoldScale(), FoldBias(), FoldScale(), FoldEmbeddingBias()),
)
