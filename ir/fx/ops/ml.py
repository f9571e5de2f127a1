"""ai.onnx.ml: encoders, linear models, normalization of features. Trees are in `trees.py`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch

from ..dtypes import torch_dtype
from ..host import Nested, flat
from ..lowering import Literal, Lowering, Table, merged, standard
from .trees import labelled, post_transformed, tree_ensemble, tree_ensemble_classifier, tree_ensemble_regressor

Values = np.ndarray | torch.Tensor
"""Strings or numbers."""

Keys = Sequence[str] | Sequence[float]


def array_feature_extractor(x: Values, y: torch.Tensor) -> Values:
    """Columns of the last axis, by number; of a vector, as one row."""
    index = y.reshape(-1)
    found = x[..., index.cpu().numpy()] if isinstance(x, np.ndarray) else x[..., index]
    return found.reshape(1, -1) if x.ndim == 1 else found


def binarizer(x: torch.Tensor, *, threshold: float = 0.0) -> torch.Tensor:
    return (x > threshold).to(x.dtype)


def label_encoder_1(
    x: Values, *, classes_strings: tuple[str, ...] = (), default_int64: int = -1, default_string: str = "_Unused"
) -> Values:
    """Strings to their places in a list, or places to strings."""
    if isinstance(x, np.ndarray):
        return _mapped(x, classes_strings, range(len(classes_strings)), default_int64)
    return _mapped(x, range(len(classes_strings)), classes_strings, default_string)


def category_mapper(
    x: Values,
    *,
    cats_int64s: tuple[int, ...],
    cats_strings: tuple[str, ...],
    default_int64: int = -1,
    default_string: str = "_Unused",
) -> Values:
    if isinstance(x, np.ndarray):
        return _mapped(x, cats_strings, cats_int64s, default_int64)
    return _mapped(x, cats_int64s, cats_strings, default_string)


def label_encoder(
    x: Values,
    *,
    keys_strings: tuple[str, ...] = (),
    keys_int64s: tuple[int, ...] = (),
    keys_floats: tuple[float, ...] = (),
    keys_tensor: Literal | None = None,
    values_strings: tuple[str, ...] = (),
    values_int64s: tuple[int, ...] = (),
    values_floats: tuple[float, ...] = (),
    values_tensor: Literal | None = None,
    default_string: str = "_Unused",
    default_int64: int = -1,
    default_float: float = -0.0,
    default_tensor: Literal | None = None,
) -> Values:
    """Each element's value in a table; a NaN key finds NaNs. Raises ValueError without keys or values."""
    keys: Keys = keys_strings or keys_int64s or keys_floats or _leaves(keys_tensor)
    if values_tensor is not None:
        values = _leaves(values_tensor)
        unset: Keys = ("_Unused",) if values and isinstance(values[0], str) else (-1,)
        default = (_leaves(default_tensor) or unset)[0]
        kind = None if isinstance(default, str) else torch_dtype(values_tensor.dtype)
        return _mapped(x, keys, values, default, kind)
    if values_strings:
        return _mapped(x, keys, values_strings, default_string)
    if values_int64s:
        return _mapped(x, keys, values_int64s, default_int64)
    return _mapped(x, keys, values_floats, default_float, torch.float32)


def _leaves(literal: Literal | None) -> Keys:
    if literal is None:
        return ()
    found = cast(list[object], flat(cast(Nested, literal.values)))
    return cast(Keys, [item.decode() if isinstance(item, bytes) else item for item in found])


def _mapped(x: Values, keys: Keys, values: Keys, default: object, dtype: torch.dtype | None = torch.int64) -> Values:
    if not keys or len(keys) != len(values):
        raise ValueError(f"there are {len(keys)} keys and {len(values)} values; expected as many, and some")
    place = _places(x, keys)
    if isinstance(default, str):
        return np.asarray(np.array([*values, default], dtype=object)[place.cpu().numpy()], dtype=object)
    return torch.tensor([*values, default], dtype=dtype, device=place.device)[place]


def _places(x: Values, keys: Keys) -> torch.Tensor:
    """Each element's place among the keys; their number where it is not there."""
    if isinstance(x, np.ndarray):
        places = {key: i for i, key in enumerate(keys)}
        found = [places.get(text, len(keys)) for text in x.ravel().tolist()]
        return torch.tensor(found, dtype=torch.int64).reshape(x.shape)
    known, order = torch.tensor(keys, dtype=x.dtype, device=x.device).sort(stable=True)
    # sorting puts NaN last, and a search must find it there
    ordered = known.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf) if x.is_floating_point() else known
    at = torch.searchsorted(ordered, x.contiguous()).clamp(max=len(keys) - 1)
    same = known[at] == x
    if x.is_floating_point() and any(isinstance(key, float) and math.isnan(key) for key in keys):
        at = torch.where(x.isnan(), len(keys) - 1, at)
        same = same | x.isnan()
    return torch.where(same, order[at], len(keys))


def one_hot_encoder(
    x: Values, *, cats_int64s: tuple[int, ...] = (), cats_strings: tuple[str, ...] = (), zeros: int = 1
) -> torch.Tensor:
    """Raises ValueError for an element that is no category, unless `zeros`."""
    categories: Keys = cats_int64s or cats_strings
    place = _places(x if isinstance(x, np.ndarray) else x.long(), categories)
    found = place.unsqueeze(-1) == torch.arange(len(categories), device=place.device)
    if not zeros and bool((place == len(categories)).any()):
        raise ValueError("an element is none of the categories; set zeros to 1 to let it pass")
    return found.to(torch.float32)


def imputer(
    x: torch.Tensor,
    *,
    imputed_value_floats: tuple[float, ...] = (),
    imputed_value_int64s: tuple[int, ...] = (),
    replaced_value_float: float = 0.0,
    replaced_value_int64: int = 0,
) -> torch.Tensor:
    """Another value, one for all or one a column, wherever there is a certain one."""
    replaced = replaced_value_float if x.is_floating_point() else replaced_value_int64
    values = imputed_value_floats if x.is_floating_point() else imputed_value_int64s
    missing = x.isnan() if math.isnan(replaced) else x == replaced
    return torch.where(missing, torch.tensor(values, dtype=x.dtype, device=x.device), x)


def normalizer(x: torch.Tensor, *, norm: str = "MAX") -> torch.Tensor:
    """Rows divided by their greatest, the sum of their magnitudes or their length; left alone where that is zero."""
    y = _float(x)
    if norm == "MAX":
        divisor = y.amax(-1, keepdim=True)
    elif norm == "L1":
        divisor = y.abs().sum(-1, keepdim=True)
    elif norm == "L2":
        divisor = torch.linalg.vector_norm(y, dim=-1, keepdim=True)
    else:
        raise ValueError(f"norm is {norm!r}; ONNX has MAX, L1 and L2")
    return (y / torch.where(divisor == 0, 1, divisor)).to(torch.float32)


def scaler(x: torch.Tensor, *, offset: tuple[float, ...] = (0.0,), scale: tuple[float, ...] = (1.0,)) -> torch.Tensor:
    y = _float(x)
    shift, factor = (torch.tensor(values, dtype=y.dtype, device=x.device) for values in (offset, scale))
    return ((y - shift) * factor).to(torch.float32)


def feature_vectorizer(*xs: torch.Tensor, inputdimensions: tuple[int, ...] = ()) -> torch.Tensor:
    """Columns side by side, each input cut or filled with zeros to its number of columns."""
    parts = [x if x.dim() == 2 else x.reshape(1, -1) for x in xs]
    if inputdimensions:
        fitted = zip(parts, inputdimensions, strict=True)
        parts = [torch.nn.functional.pad(x, (0, width - x.shape[1])) for x, width in fitted]
    return torch.cat(parts, dim=1).to(torch.float32)


def linear_regressor(
    x: torch.Tensor,
    *,
    coefficients: tuple[float, ...] = (),
    intercepts: tuple[float, ...] = (),
    targets: int = 1,
    post_transform: str = "NONE",
) -> torch.Tensor:
    """[batch, features] -> [batch, targets]"""
    return post_transformed(_linear(_float(x), coefficients, intercepts, targets), post_transform).to(torch.float32)


def linear_classifier(
    x: torch.Tensor,
    *,
    coefficients: tuple[float, ...],
    intercepts: tuple[float, ...] = (),
    classlabels_ints: tuple[int, ...] = (),
    classlabels_strings: tuple[str, ...] = (),
    multi_class: int = 0,
    post_transform: str = "NONE",
    outputs: int,
) -> object:
    """Labels [batch] and scores [batch, classes]; of two classes with one row of weights the first's are the negated.

    With one class, the label is it where the score passes 0 (a half after a transform), else 0 or no text.
    """
    y = _float(x)
    labels: Sequence[int] | Sequence[str] = classlabels_ints or classlabels_strings
    scores = _linear(y, coefficients, intercepts, len(coefficients) // y.shape[-1])
    if scores.shape[-1] == 1 and len(labels) == 2:
        scores = torch.cat([-scores, scores], -1)
    scores = post_transformed(scores, post_transform)
    if scores.shape[-1] > 1:
        found = labelled(scores.argmax(-1), labels)
    else:
        passes = (scores >= (0 if post_transform == "NONE" else 0.5)).reshape(-1)
        pair = ("", *classlabels_strings) if classlabels_strings else (0, *(classlabels_ints or (1,)))
        found = labelled(passes.long(), pair)
    return found if outputs == 1 else (found, scores.to(torch.float32))


def _float(x: torch.Tensor) -> torch.Tensor:
    return x if x.is_floating_point() else x.to(torch.float32)


def _linear(x: torch.Tensor, weights: tuple[float, ...], bias: tuple[float, ...], targets: int) -> torch.Tensor:
    matrix = torch.tensor(weights, dtype=x.dtype, device=x.device).reshape(targets, -1)
    shift = torch.tensor(bias, dtype=x.dtype, device=x.device) if bias else None
    return torch.nn.functional.linear(x, matrix, shift)


DOMAIN = "ai.onnx.ml"
ML: Table = merged(
    standard(
        {
            "ArrayFeatureExtractor": array_feature_extractor,
            "Binarizer": binarizer,
            "CategoryMapper": category_mapper,
            "FeatureVectorizer": feature_vectorizer,
            "Imputer": imputer,
            "LabelEncoder": label_encoder_1,
            "LinearClassifier": Lowering(function=linear_classifier, many=True),
            "LinearRegressor": linear_regressor,
            "Normalizer": normalizer,
            "OneHotEncoder": one_hot_encoder,
            "Scaler": scaler,
            "TreeEnsembleClassifier": Lowering(function=tree_ensemble_classifier, many=True),
            "TreeEnsembleRegressor": tree_ensemble_regressor,
        },
        domain=DOMAIN,
    ),
    standard({"LabelEncoder": label_encoder}, domain=DOMAIN, since=2),
    standard({"TreeEnsemble": tree_ensemble}, domain=DOMAIN, since=5),
)
