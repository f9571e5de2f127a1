"""What every pass owes, over all passes and a corpus of small graphs."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import yaml
from tersor.backends.onnxruntime.lowering import LOWERING
from tersor.ir.compare import compare
from tersor.ir.feeds import random_feeds
from tersor.ir.level import Level, Signature, violations
from tersor.ir.text import format_model
from tersor.passes.base import Context, Pass
from tersor.passes.catalogue import PASSES, find
from tersor.passes.clean.drop_outputs import DropOutputs
from tersor.passes.clean.fold_constants import FoldConstants
from tersor.passes.clean.inline_functions import InlineFunctions
from tersor.passes.factorize.factorize_tensor import FactorizeTensor
from tersor.passes.lowering.lower_opset import LowerOpset
from tersor.passes.pipeline import Pipeline
from tersor.passes.presets import RAISING
from tersor.passes.prune.trim_vocabulary import TrimVocabulary
from tersor.passes.quantize.quantize_dynamic import QuantizeDynamic
from tersor.passes.quantize.quantize_static import QuantizeStatic
from tersor.passes.quantize.quantize_weights import QuantizeWeights
from tersor.passes.share.share_identical import ShareIdentical
from tersor.passes.share.share_layers import ShareLayers
from tersor.passes.statistics import Calibration
from tersor.passes.verify import allowed, worst_loss
from tersor.tests.passes.corpus import CORPUS
from tersor.tests.support import inside_if

CONTEXT = Context()

#: Passes as they are by default, and the ones that have more to do with options.
EVERY: dict[str, Pass] = {
    made.name: made
    for made in (*(find(name)() for name in sorted(PASSES)), *dict.fromkeys(type(step)() for step in LOWERING.flat()))
} | {
    "quantize-dynamic{rows}": QuantizeDynamic(rows=True, embeddings=True, smallest=1),
    "quantize-dynamic{computed}": QuantizeDynamic(recurrent="computed", headroom="none", smallest=1),
    "quantize-static{attention}": QuantizeStatic(attention=True, smallest=1 << 40),
    "quantize-weights{awq}": QuantizeWeights(algorithm="awq", multiply=True, refine=True, rank=2, smallest=1),
    "factorize-tensor{every kind}": FactorizeTensor(ratio=0.9, embeddings=True, convolutions=True, smallest=64),
    "inline-functions{own}": InlineFunctions(own=True),
    "share-identical{transposed}": ShareIdentical(transposed=True, computed=True),
    "share-layers{loop}": ShareLayers(keep="none", depth="loop"),
    "trim-vocabulary{unknown}": TrimVocabulary(unknown=0),
    "raising": RAISING,
    "lowering": LOWERING,
}

OPTIONS = [
    FoldConstants(limit=7),
    DropOutputs(keep=("y", "a b, c")),
    InlineFunctions(own=True),
    QuantizeDynamic(rows=True, embeddings=True, recurrent="computed", headroom="bits", only=("*.q",), ignore=("[",)),
    LowerOpset(floor=21),
]
IN_IF = ("exported_attention", "masks", "lstm", "tied_table")
CASES = [*((name, False) for name in CORPUS), *((name, True) for name in IN_IF)]


@cache
def model_of(name: str, wrapped: bool = False) -> ir.Model:
    return inside_if(model_of(name)) if wrapped else CORPUS[name]()


@cache
def feeds_of(name: str, wrapped: bool) -> dict[str, np.ndarray]:
    return random_feeds(model_of(name, wrapped), seed=1)


def calibrated(name: str, wrapped: bool = False) -> Context:
    """For passes that need data: the batch that contracts are measured on."""
    return Context(calibration=Calibration([feeds_of(name, wrapped)]))


def state(model: ir.Model) -> tuple[str, dict[str, bytes]]:
    """The graph as text, and every weight."""
    weights = {
        name: value.const_value.tobytes()
        for scope in (model.graph, *model.graph.subgraphs())
        for name, value in scope.initializers.items()
        if value.const_value is not None
    }
    return format_model(model), weights


def refusal(model: ir.Model) -> str:
    """What ONNX's checker, types and shapes inferred, has to say against a model; empty where it takes it."""
    try:
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return str(error)
    return ""


def shapes(model: ir.Model) -> list[str]:
    return [str(value.shape) for node in model.graph.all_nodes() for value in node.outputs]


@pytest.mark.parametrize(("graph", "wrapped"), CASES, ids=[f"{name}{'-in-if' * wrapped}" for name, wrapped in CASES])
@pytest.mark.parametrize("name", EVERY)
def test_every_pass_keeps_its_promises(name: str, graph: str, wrapped: bool) -> None:
    made, model, feeds = EVERY[name], model_of(graph, wrapped).clone(), feeds_of(graph, wrapped)
    signature, before = Signature.of(model), state(model)

    made.explain(model, CONTEXT)
    assert state(model) == before, "explaining changed the model"

    outcome = made.apply(model, calibrated(graph, wrapped))
    after = state(model)
    assert violations(model, Level.IMPORTED, signature=signature) == []
    if not outcome.matches:
        assert after == before, "the model changed though nothing was found"
    else:
        assert refusal(model_of(graph, wrapped)) or not refusal(model), "ONNX's checker refuses what it made"
        loss = worst_loss(made.contract, compare(model_of(graph, wrapped), model, feeds))
        assert loss <= max(allowed(step.contract) for step in steps(made))

    known = shapes(model)
    again = made.apply(model, calibrated(graph, wrapped))
    assert state(model) == after, "a second application changed the model"
    if not isinstance(made, Pipeline):
        assert again.matches == 0 or shapes(model) != known, "a second application found something"


def steps(made: Pass) -> list[Pass]:
    return list(made.flat()) if isinstance(made, Pipeline) else [made]


@pytest.mark.parametrize("name", EVERY)
def test_every_pass_finds_something_somewhere(name: str) -> None:
    """A corpus in which a pass never fires would prove nothing about it."""
    # without options nothing to drop, no masks and no token that is unknown, and the corpus is at the opset already
    idle = {"drop-outputs", "prune-ticket", "trim-vocabulary", "upgrade-opset"}
    fires = (EVERY[name].apply(model_of(graph).clone(), calibrated(graph)).matches for graph in CORPUS)
    assert any(fires) != (name in idle)


@pytest.mark.parametrize("made", [*EVERY.values(), *OPTIONS], ids=lambda made: made.name)
def test_every_pass_goes_through_text_and_yaml(made: Pass) -> None:
    pipeline = Pipeline(steps=(made,))
    assert Pipeline.of(pipeline.text()) == pipeline
    assert Pipeline.of(yaml.safe_load(yaml.safe_dump(pipeline.data()))) == pipeline


@pytest.mark.parametrize("graph", CORPUS)
def test_raising_and_lowering_together_keep_the_promise(graph: str) -> None:
    model, feeds = model_of(graph).clone(), feeds_of(graph, False)
    signature = Signature.of(model)
    for stage, level in ((RAISING, Level.SEMANTIC), (LOWERING, Level.LOWERED)):
        stage.apply(model, CONTEXT)
        assert violations(model, level, signature=signature) == []
    assert compare(model_of(graph), model, feeds).within(max(allowed(step.contract) for step in LOWERING.flat()))
