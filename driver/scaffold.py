"""What `tersor new-pass` writes: a pass that works on an example, and its test in three parts."""

from __future__ import annotations

import importlib.util
import keyword
import re
from dataclasses import dataclass
from pathlib import Path
from string import Template

from ..ir.errors import OptionError

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
#: Names of which the file is one that pytest collects.
_COLLECTED = re.compile(r"test-.*|.*-test|conftest")

_PASS = Template('''"""Remove a multiplication by one.

    before   x --> Mul --> y          after   x --> (uses of y)
             1 -->  ^

Exact. Left alone where the constant broadcasts x to a larger shape, or y is a graph output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
import tersor
from tersor.ir.content import dimensions
from tersor.passes.edit import Tape, replace, scalar_of


@dataclass(frozen=True, kw_only=True)
class ${kind}Match(tersor.Match):
    """The factor that stays."""

    kept: ir.Value


@dataclass(frozen=True, kw_only=True)
class ${kind}(tersor.Rewrite):
    """x * 1 -> x"""

    name: ClassVar[str] = "${name}"
    contract: ClassVar[tersor.Exact] = tersor.Exact()
    anchors: ClassVar[tuple[str, ...]] = ("Mul",)
    tolerance: float = 0.0

    def match(self, node: ir.Node) -> tersor.Match | tersor.Miss:
        if len(node.inputs) != 2:
            return tersor.Miss("inputs", f"{len(node.inputs)} of {node.op_type}", "two factors")
        for kept, factor in (tuple(node.inputs), tuple(node.inputs[::-1])):
            number = scalar_of(factor)
            if number is None or kept is None or not abs(number - 1.0) <= self.tolerance:
                continue
            if node.outputs[0].is_graph_output():
                return tersor.Miss("output", node.outputs[0].name or "", "a product that is no graph output")
            if dimensions(kept) is None or dimensions(kept) != dimensions(node.outputs[0]):
                return tersor.Miss("shape", str(dimensions(kept)), "a constant that leaves the shape as it is")
            return ${kind}Match(node=node, kept=kept)
        return tersor.Miss("factor", node.name or "", "a constant one")

    def rewrite(self, found: tersor.Match) -> None:
        assert isinstance(found, ${kind}Match)
        replace(Tape(), found.node.outputs, [found.kept])
''')

_TEST = Template('''"""x * 1 is x, and the products that are not."""

from __future__ import annotations

import pytest
import tersor
from tersor.ir.text import graph, lines
from tersor.passes.base import Context

from ${module} import ${kind}

INPUTS = {"x": "float[batch, 4]"}


class TestRewrites:
    @pytest.mark.parametrize("product", ["Mul(x, one)", "Mul(one, x)"])
    def test_removes_the_multiplication(self, product: str) -> None:
        model = graph(f"s = {product}", "y = Relu(s)", inputs=INPUTS, one=1.0)
        ${kind}().apply(model, Context())
        assert lines(model) == ["y = Relu(x)"]


class TestLeavesAlone:
    @pytest.mark.parametrize(
        ("text", "constant", "rule"),
        [
            (("s = Mul(x, c)", "y = Relu(s)"), 2.0, "factor"),
            (("s = Mul(x, c)", "y = Relu(s)"), float("nan"), "factor"),
            (("y = Mul(x, c)",), 1.0, "output"),
            (("s = Mul(x, c)", "y = Relu(s)"), [[[1.0]]], "shape"),
        ],
    )
    def test_what_is_no_multiplication_by_one(self, text: tuple[str, ...], constant: object, rule: str) -> None:
        model = graph(*text, inputs=INPUTS, c=constant)
        outcome = ${kind}().explain(model, Context())
        assert [finding.miss.rule for finding in outcome.misses if finding.miss is not None] == [rule]


class TestHolds:
    def test_within_its_contract(self) -> None:
        model = graph("s = Mul(x, one)", "y = Relu(s)", inputs=INPUTS, one=1.0)
        report = tersor.run_passes(model, ${kind}())
        assert report.passes[0].loss == 0.0
''')


@dataclass(frozen=True)
class Scaffold:
    """A pass that does not exist yet: its name, and the files that it is made of."""

    name: str
    folder: Path

    @property
    def module(self) -> str:
        """What Python imports it by."""
        return self.name.replace("-", "_")

    @property
    def kind(self) -> str:
        """Its class.

        >>> Scaffold("fold-my-scale", Path()).kind
        'FoldMyScale'
        """
        return "".join(part.capitalize() for part in self.name.split("-"))

    @property
    def files(self) -> dict[Path, str]:
        """The pass and its test, as they are written."""
        words = {"name": self.name, "module": self.module, "kind": self.kind}
        return {
            self.folder / f"{self.module}.py": _PASS.substitute(words),
            self.folder / f"test_{self.module}.py": _TEST.substitute(words),
        }

    def write(self) -> list[Path]:
        """Write both files and give their paths; neither where one is there already.

        Raises OptionError for a name that no pass can have, files that exist, and a folder that cannot be written.
        """
        self._check_name()
        there = [str(path) for path in self.files if path.exists() or path.is_symlink()]
        if there:
            raise OptionError(f"{' and '.join(there)} exist{'s' * (len(there) == 1)} already; choose another name")
        self._check_module()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path, text in self.files.items():
                with path.open("x", encoding="utf-8") as file:
                    file.write(text)
        except OSError as error:
            raise OptionError(f"cannot write into {self.folder}: {error.strerror or error}") from error
        return list(self.files)

    def _check_name(self) -> None:
        if not _NAME.fullmatch(self.name):
            wanted = "lower case words joined by hyphens, as in fold-unit-scale"
            hint = re.sub(r"[^a-z0-9]+", "-", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", self.name).lower()).strip("-")
            near = f"; did you mean {hint}?" if _NAME.fullmatch(hint) else ""
            raise OptionError(f"{self.name!r} is no name of a pass: expected {wanted}{near}")
        if _COLLECTED.fullmatch(self.name):
            raise OptionError(
                f"pytest would take {self.module}.py for tests or for its own settings; choose a name other than "
                f"{self.name!r} that does not start with test- or end in -test"
            )
        from ..passes import catalogue

        owner = catalogue.table().get(self.name)
        if owner is not None:
            raise OptionError(f"there is a pass {self.name!r} already ({owner}); choose another name")

    def _check_module(self) -> None:
        """A file named as another module would hide it, or be hidden."""
        if keyword.iskeyword(self.module) or importlib.util.find_spec(self.module) is not None:
            what = "a word of Python" if keyword.iskeyword(self.module) else "a module that can be imported already"
            raise OptionError(f"{self.module!r} is {what}, so that no file can be named so; choose another name")
