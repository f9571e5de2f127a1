from __future__ import annotations

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.fx.ops.ml import imputer, label_encoder, one_hot_encoder
from tersor.ir.fx.ops.trees import post_transformed, tree_ensemble_regressor

RNG = np.random.default_rng(0)
X = RNG.standard_normal((7, 4)).astype(np.float32)
WORDS = np.array([["a", "b"], ["zz", "a"]], dtype=object)
TYPES = {np.dtype("float32"): 1, np.dtype("int64"): 7, np.dtype("O"): 8, np.dtype("float64"): 11, np.dtype("int32"): 6}


def node_model(
    op: str, feeds: list[np.ndarray], opset: int, outputs: dict[str, int], **attributes: object
) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info(f"x{i}", TYPES[x.dtype], x.shape) for i, x in enumerate(feeds)]
    results = [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()]
    node = helper.make_node(op, [x.name for x in inputs], list(outputs), domain="ai.onnx.ml", **attributes)
    graph = helper.make_graph([node], "g", inputs, results)
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", opset)]
    return helper.make_model(graph, ir_version=8, opset_imports=imports)


def both(
    op: str, *feeds: np.ndarray, opset: int = 1, outputs: dict[str, int] | None = None, **attributes: object
) -> list[np.ndarray]:
    """Run through FX and ONNX Runtime; the results, which are the same."""
    names = outputs or {"y": TensorProto.FLOAT}
    model = node_model(op, list(feeds), opset, names, **attributes)
    given = {f"x{i}": x for i, x in enumerate(feeds)}
    found = Interpreter(to_fx(onnx_ir.serde.deserialize_model(model))).run(given)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for (name, value), wanted in zip(found.items(), session.run(None, given), strict=True):
        assert value.shape == wanted.shape, name
        if value.dtype == object:
            assert value.tolist() == wanted.tolist()
        else:
            assert value.dtype == wanted.dtype
            np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)
    return list(found.values())


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("Binarizer", {"threshold": 0.3}),
        ("Normalizer", {"norm": "MAX"}),
        ("Normalizer", {"norm": "L1"}),
        ("Normalizer", {"norm": "L2"}),
        ("Scaler", {"offset": [0.5], "scale": [2.0]}),
        ("Scaler", {"offset": [0.5, 1.0, 2.0, 3.0], "scale": [2.0, 1.0, 0.5, -1.0]}),
        ("LinearRegressor", {"coefficients": [1.0, 2.0, -1.0, 0.5], "intercepts": [0.25]}),
        ("LinearRegressor", {"coefficients": [1.0, 2.0, -1.0, 0.5] * 2, "targets": 2, "post_transform": "SOFTMAX"}),
        ("FeatureVectorizer", {"inputdimensions": [4]}),
    ],
)
def test_columns_of_numbers(op: str, attributes: dict[str, object]) -> None:
    x = np.abs(X) if attributes.get("norm") == "MAX" else X
    both(op, x, **attributes)


def test_columns_are_picked_by_number() -> None:
    index = np.array([[2, 0, 2]])
    both("ArrayFeatureExtractor", X, index)
    both("ArrayFeatureExtractor", WORDS, np.array([1]), outputs={"y": TensorProto.STRING})


def test_vectors_become_rows() -> None:
    (y,) = both("ArrayFeatureExtractor", X[0], np.array([1, 3]))
    assert y.shape == (1, 2)


@pytest.mark.parametrize("value", [np.nan, 1.5])
def test_missing_values_are_filled_in(value: float) -> None:
    x = np.where(X > 0.5, np.float32(value), X)
    both("Imputer", x, replaced_value_float=float(value), imputed_value_floats=[1.0, 2.0, 3.0, 4.0])
    both("Imputer", x, replaced_value_float=float(value), imputed_value_floats=[9.0])
    filled = imputer(torch.tensor([[3, 4]]), imputed_value_int64s=(7,), replaced_value_int64=4)
    assert filled.tolist() == [[3, 7]]


def test_labels_before_tables() -> None:
    both("LabelEncoder", WORDS, classes_strings=["b", "a"], default_int64=-5, outputs={"y": TensorProto.INT64})
    numbers = np.array([1, 0, 9])
    both("LabelEncoder", numbers, classes_strings=["b", "a"], default_string="?", outputs={"y": TensorProto.STRING})


@pytest.mark.parametrize(
    ("x", "keys", "values", "kind"),
    [
        (WORDS, {"keys_strings": ["a", "b"]}, {"values_int64s": [5, 6], "default_int64": -9}, TensorProto.INT64),
        (WORDS, {"keys_strings": ["a", "b"]}, {"values_strings": ["x", "y"]}, TensorProto.STRING),
        (np.array([3, 1, 4]), {"keys_int64s": [4, 3]}, {"values_floats": [0.5, 1.5]}, TensorProto.FLOAT),
        (np.array([3, 1, 4]), {"keys_int64s": [4, 3]}, {"values_strings": ["d", "c"]}, TensorProto.STRING),
    ],
)
def test_tables(x: np.ndarray, keys: dict[str, object], values: dict[str, object], kind: int) -> None:
    both("LabelEncoder", x, opset=2, outputs={"y": kind}, **keys, **values)


def test_a_nan_key_finds_nans() -> None:
    x = torch.tensor([1.5, float("nan"), 2.0, float("inf"), 0.5])
    found = label_encoder(x, keys_floats=(float("nan"), 1.5, float("inf")), values_int64s=(1, 2, 3))
    assert isinstance(found, torch.Tensor)
    assert found.tolist() == [2, 1, -1, 3, -1]


def test_categories() -> None:
    both("CategoryMapper", WORDS, cats_int64s=[4, 5], cats_strings=["b", "a"], outputs={"y": TensorProto.INT64})
    both("CategoryMapper", np.array([5, 6]), cats_int64s=[4, 5], cats_strings=["b", "a"], outputs={"y": 8})
    both("OneHotEncoder", WORDS, cats_strings=["b", "a"])
    both("OneHotEncoder", np.array([[3, 7]]), cats_int64s=[7, 9])
    with pytest.raises(ValueError, match="an element is none of the categories; set zeros to 1"):
        one_hot_encoder(torch.tensor([3]), cats_int64s=(4,), zeros=0)


LABELLED = {"label": TensorProto.INT64, "scores": TensorProto.FLOAT}
NAMED = {"label": TensorProto.STRING, "scores": TensorProto.FLOAT}


@pytest.mark.parametrize("transform", ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO"])
def test_linear_classifier(transform: str) -> None:
    weights = RNG.standard_normal(12).astype(np.float32).tolist()
    given = {"coefficients": weights, "intercepts": [0.1, 0.2, 0.3], "post_transform": transform}
    both("LinearClassifier", X, classlabels_ints=[7, 8, 9], outputs=LABELLED, **given)
    both("LinearClassifier", X, classlabels_strings=["a", "b", "c"], outputs=NAMED, **given)


def forest(count: int, depth: int, features: int, modes: list[str]) -> dict[str, list[object]]:
    """Complete trees with random tests; leaves last in each."""
    nodes: dict[str, list[object]] = {
        f"nodes_{name}": []
        for name in ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids")
    }
    inner = 2**depth - 1
    for tree in range(count):
        for node in range(2 * inner + 1):
            leaf = node >= inner
            row = (
                tree,
                node,
                0 if leaf else int(RNG.integers(features)),
                "LEAF" if leaf else modes[int(RNG.integers(len(modes)))],
                0.0 if leaf else float(np.float32(RNG.standard_normal())),
                0 if leaf else 2 * node + 1,
                0 if leaf else 2 * node + 2,
            )
            for values, value in zip(nodes.values(), row, strict=True):
                values.append(value)
    return nodes


def leaves(nodes: dict[str, list[object]]) -> list[tuple[object, object]]:
    rows = zip(nodes["nodes_treeids"], nodes["nodes_nodeids"], nodes["nodes_modes"], strict=True)
    return [(tree, node) for tree, node, mode in rows if mode == "LEAF"]


ALL_MODES = [f"BRANCH_{name}" for name in ("LEQ", "LT", "GTE", "GT", "EQ", "NEQ")]


@pytest.mark.parametrize("modes", [["BRANCH_LEQ"], ["BRANCH_LT"], ALL_MODES])
@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
def test_trees_regress(modes: list[str], aggregate: str) -> None:
    nodes = forest(3, 3, 4, modes)
    ends = leaves(nodes) * 2
    both(
        "TreeEnsembleRegressor",
        X,
        **nodes,
        target_treeids=[tree for tree, _ in ends],
        target_nodeids=[node for _, node in ends],
        target_ids=[i * 2 // len(ends) for i in range(len(ends))],
        target_weights=RNG.standard_normal(len(ends)).astype(np.float32).tolist(),
        n_targets=2,
        base_values=[0.5, -0.5],
        aggregate_function=aggregate,
    )


# Of two classes, ONNX Runtime leaves out the softmax; of more, it never names one without votes, even where all others
# have negative sums.
@pytest.mark.parametrize(
    ("transform", "classes"), [("NONE", 2), ("LOGISTIC", 2), ("NONE", 3), ("SOFTMAX", 3), ("LOGISTIC", 3)]
)
def test_trees_classify(transform: str, classes: int) -> None:
    nodes = forest(4, 2, 4, ["BRANCH_LEQ"])
    ends = leaves(nodes)
    both(
        "TreeEnsembleClassifier",
        X,
        outputs=LABELLED,
        **nodes,
        class_treeids=[tree for tree, _ in ends],
        class_nodeids=[node for _, node in ends],
        class_ids=[int(i) if classes > 2 else 0 for i in RNG.integers(0, classes, len(ends))],
        class_weights=(RNG.random(len(ends)) - (classes == 2) * 0.5).astype(np.float32).tolist(),
        classlabels_int64s=[10, 20, 30][:classes],
        post_transform=transform,
    )


def test_a_missing_feature_goes_the_way_it_is_told() -> None:
    x = torch.tensor([[float("nan")], [0.0], [2.0]])
    tree = {
        "nodes_treeids": (0, 0, 0),
        "nodes_nodeids": (0, 1, 2),
        "nodes_featureids": (0, 0, 0),
        "nodes_modes": ("BRANCH_LEQ", "LEAF", "LEAF"),
        "nodes_values": (1.0, 0.0, 0.0),
        "nodes_truenodeids": (1, 0, 0),
        "nodes_falsenodeids": (2, 0, 0),
        "target_treeids": (0, 0),
        "target_nodeids": (1, 2),
        "target_ids": (0, 0),
        "target_weights": (10.0, 20.0),
    }
    assert tree_ensemble_regressor(x, **tree).tolist() == [[20], [10], [20]]  # type: ignore[arg-type]
    tracked = tree_ensemble_regressor(x, **tree, nodes_missing_value_tracks_true=(1, 0, 0))  # type: ignore[arg-type]
    assert tracked.tolist() == [[10], [10], [20]]
    circle = tree | {"nodes_modes": ("BRANCH_LEQ", "LEAF", "LEAF"), "nodes_truenodeids": (0, 0, 0)}
    with pytest.raises(ValueError, match="a tree's nodes go in circles"):
        tree_ensemble_regressor(x, **circle)  # type: ignore[arg-type]


def test_post_transforms() -> None:
    scores = torch.tensor([[0.0, 1.0, -1.0], [0.0, 0.0, 0.0]])
    zero = post_transformed(scores, "SOFTMAX_ZERO")
    assert zero[0, 0] == 0
    torch.testing.assert_close(zero[0].sum(), torch.tensor(1.0))
    assert zero[1].tolist() == [0.5] * 3
    probability = torch.tensor([[0.1, 0.5, 0.9]])
    normal = torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(normal.cdf(post_transformed(probability, "PROBIT")), probability)
    with pytest.raises(ValueError, match="post_transform is 'TANH'; ONNX has NONE"):
        post_transformed(scores, "TANH")
