"""Every version of every operator from opset 7 on has a row that takes all its attributes, inputs and outputs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import onnx
import pytest
from tersor.ir.fx.coverage import snake
from tersor.ir.fx.lowering import keywords, lookup
from tersor.ir.fx.table import DEVICE, FORMS

OLDEST = 7


def versions() -> Iterator[tuple[str, int]]:
    history: dict[str, dict[int, onnx.defs.OpSchema]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            history.setdefault(schema.name, {})[schema.since_version] = schema
    for name, found in sorted(history.items()):
        oldest = max((since for since in found if since <= OLDEST), default=OLDEST)
        for since, schema in sorted(found.items()):
            if since >= oldest and not schema.deprecated:
                yield name, max(since, OLDEST)


@pytest.mark.parametrize(("name", "opset"), list(versions()))
def test_has_a_lowering(name: str, opset: int) -> None:
    if lookup(FORMS, "", name, opset) is not None:
        return
    schema, row = onnx.defs.get_schema(name, opset), lookup(DEVICE, "", name, opset)
    assert row is not None
    assert {snake(attribute) for attribute in schema.attributes} <= keywords(row.function)
    assert schema.max_output == 1 or row.many
    if inspect.isfunction(row.function):
        kinds = [parameter.kind for parameter in inspect.signature(row.function).parameters.values()]
        taken = sum(kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for kind in kinds)
        assert inspect.Parameter.VAR_POSITIONAL in kinds or taken >= schema.max_input
