"""The one table of passes: a name and where its class lives, imported when it is asked for.

Packages add theirs by the entry point group `tersor.passes` (name = "module:Class"). A name that two owners claim is an
error that names both. `module:Class` itself is accepted wherever a name is, for passes that live in a user's own file.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points

from ..ir.errors import OptionError, nearest
from ..ir.reference import importable
from .base import Pass
from .syntax import Step, build

GROUP = "tersor.passes"

#: name -> "module:Class", modules relative to this package.
PASSES: Mapping[str, str] = {
    "cast": ".quantize.cast:Cast",
    "cast-arithmetic": ".quantize.cast_arithmetic:CastArithmetic",
    "code-embedding": ".embeddings.code_embedding:CodeEmbedding",
    "drop-dead-code": ".clean.drop_dead_code:DropDeadCode",
    "drop-identities": ".clean.drop_identities:DropIdentities",
    "drop-layers": ".prune.drop_layers:DropLayers",
    "drop-outputs": ".clean.drop_outputs:DropOutputs",
    "drop-sublayers": ".prune.drop_sublayers:DropSublayers",
    "drop-true-masks": ".clean.drop_true_masks:DropTrueMasks",
    "factorize-embedding": ".embeddings.factorize_embedding:FactorizeEmbedding",
    "factorize-linear": ".factorize.factorize_linear:FactorizeLinear",
    "factorize-recurrent": ".factorize.factorize_recurrent:FactorizeRecurrent",
    "factorize-tensor": ".factorize.factorize_tensor:FactorizeTensor",
    "fold-attention-scale": ".fuse.fold_attention_scale:FoldAttentionScale",
    "fold-batch-normalization": ".raising.linear.fold_batch_normalization:FoldBatchNormalization",
    "fold-bias": ".fuse.fold_bias:FoldBias",
    "fold-constants": ".clean.fold_constants:FoldConstants",
    "fold-embedding-bias": ".fuse.fold_embedding_bias:FoldEmbeddingBias",
    "fold-scale": ".fuse.fold_scale:FoldScale",
    "fold-shapes": ".clean.fold_shapes:FoldShapes",
    "infer-shapes": ".clean.infer_shapes:InferShapes",
    "inline-branches": ".clean.inline_branches:InlineBranches",
    "inline-functions": ".clean.inline_functions:InlineFunctions",
    "loop-layers": ".share.loop_layers:LoopLayers",
    "merge-common-subexpressions": ".clean.merge_common_subexpressions:MergeCommonSubexpressions",
    "merge-matmuls": ".fuse.merge_matmuls:MergeMatMuls",
    "merge-neurons": ".prune.merge_neurons:MergeNeurons",
    "mix-precision": ".quantize.mix_precision:MixPrecision",
    "prune-budget": ".prune.prune_budget:PruneBudget",
    "prune-heads": ".prune.prune_heads:PruneHeads",
    "prune-magnitude": ".prune.prune_magnitude:PruneMagnitude",
    "prune-neurons": ".prune.prune_neurons:PruneNeurons",
    "prune-obs": ".prune.prune_obs:PruneObs",
    "prune-ticket": ".prune.prune_ticket:PruneTicket",
    "prune-wanda": ".prune.prune_wanda:PruneWanda",
    "quantize-binary": ".quantize.quantize_binary:QuantizeBinary",
    "quantize-codebook": ".quantize.quantize_codebook:QuantizeCodebook",
    "quantize-dynamic": ".quantize.quantize_dynamic:QuantizeDynamic",
    "quantize-static": ".quantize.quantize_static:QuantizeStatic",
    "quantize-weights": ".quantize.quantize_weights:QuantizeWeights",
    "raise-activation": ".raising.activation.raise_activation:RaiseActivation",
    "raise-attention": ".raising.attention.raise_attention:RaiseAttention",
    "raise-attention-cache": ".raising.attention.raise_attention_cache:RaiseAttentionCache",
    "raise-attention-groups": ".raising.attention.raise_attention_groups:RaiseAttentionGroups",
    "raise-attention-heads": ".raising.attention.raise_attention_heads:RaiseAttentionHeads",
    "raise-bidirectional-recurrence": ".raising.recurrence.raise_bidirectional_recurrence:RaiseBidirectionalRecurrence",
    "raise-causal-mask": ".raising.attention.raise_causal_mask:RaiseCausalMask",
    "raise-constant-lookup": ".raising.embedding.raise_constant_lookup:RaiseConstantLookup",
    "raise-contrib": ".raising.contrib.raise_contrib:RaiseContrib",
    "raise-einsum": ".raising.linear.raise_einsum:RaiseEinsum",
    "raise-embedding": ".raising.embedding.raise_embedding:RaiseEmbedding",
    "raise-flat-gather": ".raising.raise_flat_gather:RaiseFlatGather",
    "raise-gelu": ".raising.activation.raise_gelu:RaiseGelu",
    "raise-glu": ".raising.activation.raise_glu:RaiseGlu",
    "raise-grid-gather": ".raising.raise_grid_gather:RaiseGridGather",
    "raise-group-normalization": ".raising.normalization.raise_group_normalization:RaiseGroupNormalization",
    "raise-l2-normalization": ".raising.sentence.raise_l2_normalization:RaiseL2Normalization",
    "raise-layer-normalization": ".raising.normalization.raise_layer_normalization:RaiseLayerNormalization",
    "raise-linear": ".raising.linear.raise_linear:RaiseLinear",
    "raise-looped-recurrence": ".raising.recurrence.raise_looped_recurrence:RaiseLoopedRecurrence",
    "raise-mean-pooling": ".raising.sentence.raise_mean_pooling:RaiseMeanPooling",
    "raise-normalization-scale": ".raising.normalization.raise_normalization_scale:RaiseNormalizationScale",
    "raise-partial-rotary": ".raising.rotary.raise_partial_rotary:RaisePartialRotary",
    "raise-qdq": ".raising.quantized.raise_qdq:RaiseQdq",
    "raise-recurrent-cell": ".raising.recurrence.raise_recurrent_cell:RaiseRecurrentCell",
    "raise-recurrent-scan": ".raising.recurrence.raise_recurrent_scan:RaiseRecurrentScan",
    "raise-reversed-recurrence": ".raising.recurrence.raise_reversed_recurrence:RaiseReversedRecurrence",
    "raise-rms-normalization": ".raising.normalization.raise_rms_normalization:RaiseRmsNormalization",
    "raise-rotary-embedding": ".raising.rotary.raise_rotary_embedding:RaiseRotaryEmbedding",
    "raise-rotary-heads": ".raising.rotary.raise_rotary_heads:RaiseRotaryHeads",
    "raise-row-gather": ".raising.embedding.raise_row_gather:RaiseRowGather",
    "raise-unrolled-recurrence": ".raising.recurrence.raise_unrolled_recurrence:RaiseUnrolledRecurrence",
    "share-basis": ".share.share_basis:ShareBasis",
    "share-embedding": ".embeddings.share_embedding:ShareEmbedding",
    "share-hashed": ".share.share_hashed:ShareHashed",
    "share-identical": ".share.share_identical:ShareIdentical",
    "share-layers": ".share.share_layers:ShareLayers",
    "share-similar": ".share.share_similar:ShareSimilar",
    "simplify-views": ".clean.simplify_views:SimplifyViews",
    "sink-transposes": ".fuse.sink_transposes:SinkTransposes",
    "slice-hidden": ".prune.slice_hidden:SliceHidden",
    "smooth-activations": ".quantize.smooth_activations:SmoothActivations",
    "source-shapes": ".clean.source_shapes:SourceShapes",
    "trim-vocabulary": ".prune.trim_vocabulary:TrimVocabulary",
    "upgrade-opset": ".raising.upgrade_opset:UpgradeOpset",
}


@cache
def table() -> dict[str, str]:
    """Every known pass by name: tersor's own and those of installed plug-ins.

    Raises OptionError when two claim one name.
    """
    known = dict(PASSES)
    owners = dict.fromkeys(known, "tersor")
    for point in entry_points(group=GROUP):
        owner = point.dist.name if point.dist is not None else point.value
        if point.name in known and known[point.name] != point.value:
            raise OptionError(f"two packages offer a pass {point.name!r}: {owners[point.name]} and {owner}; remove one")
        known[point.name], owners[point.name] = point.value, owner
    return dict(sorted(known.items()))


def find(name: str) -> type[Pass]:
    """The class of a pass, by its name or as `module:Class`, imported with the working directory on the path.

    Raises OptionError with the nearest names.
    """
    where = name if ":" in name else table().get(name)
    if where is None:
        raise OptionError(f"there is no pass {name!r}; {nearest(name, table())}")
    module, _, attribute = where.partition(":")
    try:
        with importable():
            found: object = importlib.import_module(module, __package__)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:  # importing runs the module, which may raise anything
        reason = f"{type(error).__name__}: {error}"
        raise OptionError(f"the pass {name!r} cannot be imported from {where!r}: {reason}") from error
    if not (isinstance(found, type) and issubclass(found, Pass)):
        raise OptionError(f"{where!r} is no pass: it must be a subclass of tersor.Pass")
    return found


def create(step: Step) -> Pass:
    """The pass that a parsed step names, its options checked and converted."""
    kind = find(step.name)
    return build(kind, step.name, step.options)


def spell(made: Pass) -> str:
    """The name under which `find` gives the class of `made`."""
    kind = type(made)
    where = table().get(kind.name)
    if where is not None and where.partition(":")[2] == kind.__name__:
        return kind.name
    return f"{kind.__module__}:{kind.__qualname__}"
