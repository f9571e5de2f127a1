"""`inspect` and `explain`: what is read off a model, and where a pass fires."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir
import pytest
from tersor.driver.explain import explain
from tersor.driver.inspect import inspect
from tersor.ir.cost import cost
from tersor.ir.errors import OptionError, PassError
from tersor.ir.text import graph
from tersor.passes.presets import RAISING
from tersor.passes.raising.activation.raise_gelu import RaiseGelu
from tersor.tests.driver.support import Cli, dense


def residual(blocks: int) -> onnx_ir.Model:
    """`blocks` times x = x + relu(x @ up) @ down, [batch, 8]."""
    lines = [
        line
        for index in range(blocks)
        for line in (
            f"u{index} = MatMul(x{index}, up{index})",
            f"r{index} = Relu(u{index})",
            f"d{index} = MatMul(r{index}, down{index})",
            f"x{index + 1} = Add(x{index}, d{index})",
        )
    ]
    rng = np.random.default_rng(0)
    weights = {
        f"{name}{index}": rng.standard_normal(shape).astype(np.float32)
        for index in range(blocks)
        for name, shape in (("up", (8, 16)), ("down", (16, 8)))
    }
    return graph(*lines, inputs={"x0": "float[batch, 8]"}, **weights)


class TestInspect:
    def test_reads_interface_ops_and_sites(self) -> None:
        found = inspect(dense())
        assert found.inputs == ("x: float[batch, 8]",)
        assert found.outputs == ("y: float[batch, 4]",)
        assert found.ops == {"MatMul": 1, "Add": 1, "Relu": 1}
        assert found.level == "semantic"
        (group,) = found.sites
        assert (group.kind, group.count, group.parameters, group.bytes) == ("linear", 1, 32, 128)
        assert group.shapes == {"8x4": 1}
        assert found.blocks == ()
        assert found.rest is None

    def test_cost_is_a_formula_until_dimensions_are_given(self) -> None:
        formula = inspect(dense()).total.flops
        assert isinstance(formula, str)
        assert "batch" in formula
        settled = inspect(dense(), {"batch": 3}).total
        assert settled.flops == int(cost(dense(), {"batch": 3}).flops)
        assert isinstance(settled.traffic, int)

    def test_blocks_and_the_rest_add_up(self) -> None:
        found = inspect(residual(4), {"batch": 1})
        assert [part.label for part in found.blocks] == ["0.0", "0.1", "0.2", "0.3"]
        assert found.rest is not None
        parts = [*found.blocks, found.rest]
        assert sum(part.nodes for part in parts) == found.total.nodes
        assert sum(part.bytes for part in parts) == found.total.bytes
        assert sum(int(part.flops) for part in parts) == found.total.flops

    def test_refuses_an_unknown_dimension(self) -> None:
        with pytest.raises(OptionError, match="bath"):
            inspect(dense(), {"bath": 1})

    def test_one_line_for_equal_blocks(self, cli: Cli, tmp_path: Path) -> None:
        onnx_ir.save(residual(4), tmp_path / "blocks.onnx")
        ran = cli("inspect", "blocks.onnx", "--dims", "batch=2")
        assert ran.code == 0, ran.err
        assert "blocks 0 to 3, each" in ran.out
        assert "FLOP" in ran.out

    def test_json_has_every_block(self, cli: Cli, tmp_path: Path) -> None:
        onnx_ir.save(residual(4), tmp_path / "blocks.onnx")
        document = cli("inspect", "blocks.onnx", "--json").document
        assert isinstance(document["blocks"], list)
        assert len(document["blocks"]) == 4


def gelu() -> onnx_ir.Model:
    """The exact GELU, and an Erf that is none."""
    return graph(
        "s = Div(x, root)",
        "e = Erf(s)",
        "p = Add(e, one)",
        "m = Mul(x, p)",
        "y = Mul(m, half)",
        "z = Erf(x)",
        inputs={"x": "float[batch, 8]"},
        outputs=["y", "z"],
        root=float(np.sqrt(2.0)),
        one=1.0,
        half=0.5,
    )


class TestExplain:
    def test_explains_a_raising_pass_where_it_stands(self, tmp_path: Path) -> None:
        onnx_ir.save(gelu(), tmp_path / "gelu.onnx")
        found = explain(str(tmp_path / "gelu.onnx"), "raise-gelu")
        assert RaiseGelu in {type(step) for step in RAISING.flat()}
        assert found.after == "what stands before it in raise"
        assert len(found.fired) == 1

    def test_after_raising_there_is_nothing_left_for_the_same_pass(self, tmp_path: Path) -> None:
        onnx_ir.save(gelu(), tmp_path / "gelu.onnx")
        assert explain(str(tmp_path / "gelu.onnx"), "raise-gelu,raise-gelu").fired == ()

    def test_leaves_the_file_and_says_why_not(self, cli: Cli, tmp_path: Path) -> None:
        onnx_ir.save(gelu(), tmp_path / "gelu.onnx")
        before = (tmp_path / "gelu.onnx").read_bytes()
        ran = cli("explain", "gelu.onnx", "raise-gelu", "--imported", "--json")
        assert ran.code == 0, ran.err
        missed = ran.document["missed"]
        assert isinstance(missed, list)
        assert missed, "the second Erf is no GELU"
        assert {"rule", "value", "need", "near", "far", "reached"} == set(missed[0]["miss"])
        assert (tmp_path / "gelu.onnx").read_bytes() == before

    def test_shows_the_graph_around_the_first_miss_of_a_kind_and_verbose_around_all(
        self, cli: Cli, tmp_path: Path
    ) -> None:
        model = graph("a = Erf(x)", "b = Erf(a)", "y = Exp(b)", inputs={"x": "float[4]"})
        onnx_ir.save(model, tmp_path / "erf.onnx")
        assert cli("explain", "erf.onnx", "raise-gelu", "--imported").out.count("  > ") == 1
        assert cli("explain", "erf.onnx", "raise-gelu", "--imported", "-v").out.count("  > ") == 2

    def test_says_how_far_a_match_came(self, cli: Cli, tmp_path: Path) -> None:
        model = graph(
            "s = MatMul(q, k)", "r = Relu(s)", "d = Mul(r, 0.5)", "p = Softmax(d)", "y = MatMul(p, v)",
            inputs={"q": "float[2, 4, 8]", "k": "float[2, 8, 4]", "v": "float[2, 4, 8]"},
        )  # fmt: skip
        onnx_ir.save(model, tmp_path / "scores.onnx")
        ran = cli("explain", "scores.onnx", "raise-attention")
        assert "scores: needs Mul, Div, Add or the MatMul of queries and keys (1 place)" in ran.out
        assert "came through Mul at d, Relu at r" in ran.out

    def test_what_is_whole_already_is_told(self, cli: Cli, tmp_path: Path) -> None:
        sizes = dict.fromkeys(("q", "k", "v"), "float[2, 4, 3, 8]")
        onnx_ir.save(graph("y = Attention(q, k, v)", inputs=sizes, opset=23), tmp_path / "whole.onnx")
        ran = cli("explain", "whole.onnx", "raise-attention")
        assert "raise-attention has no candidate place, 1 is whole already (after " in ran.out

    def test_places_are_in_the_modules_that_they_were_exported_from(self, cli: Cli, tmp_path: Path) -> None:
        model = graph("a = Erf(x)", "b = Erf(a)", "y = Exp(b)", inputs={"x": "float[4]"})
        first, second = (node for node in model.graph if node.op_type == "Erf")
        first.name, second.name = "node_erf", "/layers.7/mlp/Erf"
        first.metadata_props["pkg.torch.onnx.name_scopes"] = "['', 'layers.6', 'layers.6.mlp', 'erf']"
        onnx_ir.save(model, tmp_path / "erf.onnx")
        ran = cli("explain", "erf.onnx", "raise-gelu", "--imported")
        assert "  Erf at node_erf in layers.6.mlp: a\n" in ran.out
        assert "  Erf at /layers.7/mlp/Erf: b\n" in ran.out

    def test_a_pass_that_fails_is_named(self, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(self: RaiseGelu, node: onnx_ir.Node) -> None:
            raise ValueError(f"{node.op_type} is not what I wanted")

        onnx_ir.save(gelu(), tmp_path / "gelu.onnx")
        monkeypatch.setattr(RaiseGelu, "match", broken)
        ran = cli("explain", "gelu.onnx", "raise-gelu")
        assert ran.code == PassError.exit_code
        assert "the pass raise-gelu failed on Erf at " in ran.err
        assert "ValueError: Erf is not what I wanted (test_inspect.py, line " in ran.err
        assert "unexpected" not in ran.err

    def test_no_candidate(self, cli: Cli, dense_onnx: Path) -> None:
        assert "raise-gelu has no candidate place" in cli("explain", dense_onnx, "raise-gelu").out

    def test_counts_the_places_and_names_another_source_only(self, cli: Cli, tmp_path: Path) -> None:
        onnx_ir.save(gelu(), tmp_path / "gelu.onnx")
        assert "raise-gelu fires at 1 of 2 places" in cli("explain", "gelu.onnx", "raise-gelu", "--imported").out
        onnx_ir.save(dense(), tmp_path / "dense.onnx")
        ran = cli("explain", "dense.onnx", "quantize-dynamic{smallest=1}")
        assert "(MatMul at " in ran.out
        assert "source:" not in ran.out

    def test_explains_a_lowering_pass(self, cli: Cli, dense_onnx: Path) -> None:
        ran = cli("explain", dense_onnx, "onnxruntime-fuse-dynamic-matmul", "--json")
        assert ran.code == 0, ran.err
        assert ran.document["after"] == "what stands before it in onnxruntime"
