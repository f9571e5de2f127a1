"""The pipeline that brings an imported model to the semantic level."""

from __future__ import annotations

from .clean.collapse_reshapes import CollapseReshapes
from .clean.drop_dead_code import DropDeadCode
from .clean.drop_identities import DropIdentities
from .clean.drop_true_masks import DropTrueMasks
from .clean.fold_constants import FoldConstants
from .clean.fold_shapes import FoldShapes
from .clean.infer_shapes import InferShapes
from .clean.inline_functions import InlineFunctions
from .clean.merge_common_subexpressions import MergeCommonSubexpressions
from .pipeline import Pipeline
from .raising.raise_attention import RaiseAttention
from .raising.raise_attention_heads import RaiseAttentionHeads
from .raising.raise_gelu import RaiseGelu
from .raising.raise_grid_gather import RaiseGridGather
from .raising.upgrade_opset import UpgradeOpset
from .share.share_identical import ShareIdentical

#: Clean-up first, so that raising sees known shapes and one spelling of each thing; then the ops that carry meaning.
RAISING = Pipeline(
    label="raise",
    steps=(
        InlineFunctions(),
        UpgradeOpset(),
        InferShapes(),
        FoldConstants(),
        DropIdentities(),
        InferShapes(),
        CollapseReshapes(),
        FoldShapes(),
        RaiseGridGather(),
        InferShapes(),
        DropTrueMasks(),
        MergeCommonSubexpressions(),
        InferShapes(),
        RaiseGelu(),
        RaiseAttention(),
        RaiseAttentionHeads(),
        ShareIdentical(),
        DropDeadCode(),
        InferShapes(),
    ),
)
