"""Named dynamic dimensions: kept in the metadata, checked when set, read and used."""

from __future__ import annotations

import onnx_ir
import pytest
from tersor.ir import dimensions
from tersor.ir.errors import ModelError
from tersor.ir.text import graph


@pytest.fixture
def model() -> onnx_ir.Model:
    return graph("y = Add(x, z)", inputs={"x": "float[batch, sequence]", "z": "float[sequence]"})


def test_names_come_in_order_of_appearance_and_once(model: onnx_ir.Model) -> None:
    assert dimensions.names(model) == ("batch", "sequence")


def test_ranges_survive_serialization(model: onnx_ir.Model) -> None:
    dimensions.set_ranges(model, {"sequence": (2, 512), "batch": (1, None)})
    again = onnx_ir.from_proto(onnx_ir.to_proto(model))
    assert dimensions.ranges(again) == {"batch": (1, None), "sequence": (2, 512)}


def test_setting_one_keeps_the_others(model: onnx_ir.Model) -> None:
    dimensions.set_ranges(model, {"sequence": (2, 512)})
    dimensions.set_ranges(model, {"batch": (4, 4)})
    assert dimensions.ranges(model) == {"batch": (4, 4), "sequence": (2, 512)}


def test_a_model_without_ranges_has_none_and_gets_no_metadata(model: onnx_ir.Model) -> None:
    dimensions.set_ranges(model, {})
    assert dimensions.ranges(model) == {}
    assert dimensions.KEY not in model.metadata_props


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"sequnce": (1, 2)}, "did you mean sequence"),
        ({"batch": (5, 2)}, "range 5..2 is empty"),
        ({"batch": (-1, 2)}, "whole numbers from 0 up"),
        ({"batch": (1.5, 2)}, "whole numbers from 0 up"),
        ({"batch": (True, 2)}, "whole numbers from 0 up"),
        ({"batch": 7}, r"expected \(smallest, largest or None\), found 7"),
    ],
)
def test_refuses_what_is_no_range(model: onnx_ir.Model, mapping: dict[str, dimensions.Range], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        dimensions.set_ranges(model, mapping)
    assert dimensions.ranges(model) == {}


@pytest.mark.parametrize("text", ["{", "[1]", '{"batch": [1]}', '{"batch": ["a", null]}'])
def test_refuses_damaged_metadata(model: onnx_ir.Model, text: str) -> None:
    model.metadata_props[dimensions.KEY] = text
    with pytest.raises(ModelError):
        dimensions.ranges(model)


def test_sizes_outside_of_their_range_are_all_named() -> None:
    allowed: dict[str, dimensions.Range] = {"batch": (1, None), "sequence": (2, 512), "heads": (4, 4)}
    dimensions.check_sizes({"batch": 1000, "sequence": 512, "heads": 4, "free": 0}, allowed)
    with pytest.raises(ModelError, match=r"batch is 0, allowed is 1 or more; sequence is 513, allowed is 2\.\.512"):
        dimensions.check_sizes({"batch": 0, "sequence": 513}, allowed)


def test_renaming_reaches_expressions_bodies_and_ranges(model: onnx_ir.Model) -> None:
    inner = onnx_ir.Value(name="v", shape=onnx_ir.Shape(["2*batch", "batch_2", None, 4]))
    model.graph.append(onnx_ir.Node("", "Identity", [model.graph.inputs[0]], outputs=[inner]))
    dimensions.set_ranges(model, {"batch": (1, 8), "sequence": (2, 512)})
    dimensions.rename(model, {"batch": "sequence", "sequence": "length"})
    assert dimensions.names(model) == ("sequence", "length")
    assert [str(dim) for dim in inner.shape or ()] == ["2*sequence", "batch_2", "None", "4"]
    assert dimensions.ranges(model) == {"sequence": (1, 8), "length": (2, 512)}
