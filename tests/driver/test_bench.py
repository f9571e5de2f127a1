"""`bench`: contestants, what a row holds, and what cannot take part. Nothing here asserts on a time."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx_ir
import pytest
from tersor.driver.bench import bench, samples
from tersor.driver.contestant import Contestant
from tersor.driver.probe import peak_bytes, probe
from tersor.ir.errors import ModelError, OptionError
from tersor.ir.text import graph
from tersor.tests.driver.support import Cli, dense

SECONDS = 0.05


@pytest.fixture
def artifact(cli: Cli, dense_onnx: Path) -> Path:
    """model.onnx compiled for ONNX Runtime."""
    ran = cli("compile", dense_onnx, "-o", "out", "--target", "onnxruntime", "--verify", "off")
    assert ran.code == 0, ran.err
    return dense_onnx.parent / "out"


class TestContestant:
    def test_reads_file_runtime_and_folder(self, dense_onnx: Path) -> None:
        assert Contestant.parse(str(dense_onnx)).runtime == "onnxruntime"
        assert Contestant.parse(f"{dense_onnx}@torch").runtime == "torch"
        assert Contestant.parse(str(dense_onnx.parent)).runtime is None

    def test_a_file_whose_name_holds_an_at_sign(self, dense_onnx: Path) -> None:
        other = dense_onnx.with_name("a@torch.onnx")
        shutil.copy(dense_onnx, other)
        assert Contestant.parse(str(other)) == Contestant(str(other), other, "onnxruntime")

    def test_refuses_a_runtime_for_an_artifact(self, dense_onnx: Path) -> None:
        with pytest.raises(OptionError, match="leave @torch out"):
            Contestant.parse(f"{dense_onnx.parent}@torch")

    def test_refuses_what_is_no_graph(self, tmp_path: Path) -> None:
        (tmp_path / "model.pt2").write_bytes(b"")
        with pytest.raises(ModelError, match="compile it first"):
            Contestant.parse(str(tmp_path / "model.pt2"))

    def test_bytes_count_external_data_once(self, tmp_path: Path) -> None:
        onnx_ir.save(dense(), tmp_path / "large.onnx", external_data="large.data", size_threshold_bytes=16)
        size = sum((tmp_path / name).stat().st_size for name in ("large.onnx", "large.data"))
        assert Contestant.parse(str(tmp_path / "large.onnx")).bytes() == size

    @pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "torch"])
    def test_plain_runtimes_agree(self, dense_onnx: Path, runtime: str) -> None:
        step = 2.0**-20
        if runtime == "openvino":
            core = pytest.importorskip("openvino").Core()
            # OpenVINO as it comes multiplies in bfloat16 where the CPU can
            whole = core.get_property("CPU", "INFERENCE_PRECISION_HINT").to_string() == "f32"
            step = step if whole else 2.0**-8
        x = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)
        found = Contestant.parse(f"{dense_onnx}@{runtime}").open(threads=1).run({"x": x})["y"]
        weight, bias = (dense().graph.initializers[name].const_value.numpy() for name in "wb")  # type: ignore[union-attr]
        # both factors are rounded, and the bias
        bound = 2 * step * (np.abs(x) @ np.abs(weight) + np.abs(bias))
        assert (np.abs(found - np.maximum(x @ weight + bias, 0.0)) <= bound).all()


class TestBench:
    def test_compares_with_the_first(self, artifact: Path, dense_onnx: Path) -> None:
        found = bench([str(dense_onnx), str(artifact)], dimensions={"batch": 5}, seconds=SECONDS, memory=False)
        first, second = found.rows
        assert found.shapes == {"x": (5, 8)}
        assert found.pairs >= 1
        assert (first.loss, first.cosine) == (0.0, pytest.approx(1.0))
        assert first.speed is not None
        assert (first.speed.median, first.speed.low, first.speed.high) == (1.0, 1.0, 1.0)
        assert second.speed is not None
        assert second.speed.low <= second.speed.median <= second.speed.high
        assert second.loss is not None
        assert second.loss < 1e-5
        assert second.bytes == (artifact / "model.onnx").stat().st_size
        assert second.latency is not None
        assert second.latency.p50 <= second.latency.p90 <= second.latency.p99
        assert found.versions["onnxruntime"]

    def test_measures_how_far_answers_are_apart(self, dense_onnx: Path, tmp_path: Path) -> None:
        onnx_ir.save(dense(shift=1.0), tmp_path / "off.onnx")
        found = bench([str(dense_onnx), str(tmp_path / "off.onnx")], seconds=SECONDS, memory=False)
        loss = found.rows[1].loss
        assert loss is not None
        assert loss > 1e-3

    def test_lists_a_contestant_that_cannot_run(self, dense_onnx: Path, tmp_path: Path) -> None:
        onnx_ir.save(graph("y = Relu(x)", inputs={"x": "float[batch, 9]"}), tmp_path / "other.onnx")
        found = bench([str(dense_onnx), str(tmp_path / "other.onnx")], seconds=SECONDS, memory=False)
        assert found.rows[1].speed is None
        assert "axis 1" in (found.rows[1].error or "")

    def test_the_first_has_to_run(self, dense_onnx: Path, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", x=np.zeros((2, 9), np.float32))
        with pytest.raises(ModelError, match="axis 1"):
            bench([str(dense_onnx)], data=str(tmp_path / "x.npz"), seconds=SECONDS)

    def test_uses_data(self, dense_onnx: Path, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", x=np.ones((7, 8), np.float32))
        found = bench([str(dense_onnx)], data=str(tmp_path / "x.npz"), seconds=SECONDS, memory=False)
        assert (found.feeds, found.batches, found.shapes) == ("data", 1, {"x": (7, 8)})

    @pytest.mark.parametrize("labels", [[], ["a", "a"]])
    def test_refuses_nothing_and_twice_the_same(self, labels: list[str]) -> None:
        with pytest.raises(OptionError, match="different contestants"):
            bench(labels)

    def test_samples_are_the_first_axis(self) -> None:
        assert samples({"x": np.zeros((6, 2))}) == 6
        assert samples({"x": np.zeros(())}) == 1


class TestProbe:
    def test_memory_of_a_process_of_its_own(self, tmp_path: Path) -> None:
        weight = np.zeros((2048, 4096), np.float32)
        onnx_ir.save(graph("y = MatMul(x, w)", inputs={"x": "float[n, 2048]"}, w=weight), tmp_path / "m.onnx")
        found = probe(str(tmp_path / "m.onnx"), [{"x": np.zeros((1, 2048), np.float32)}], 1)
        assert found.load_seconds > 0.0
        assert weight.nbytes / 2 < found.memory_bytes < 20 * weight.nbytes

    def test_says_what_went_wrong(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="no file or folder"):
            probe(str(tmp_path / "absent.onnx"), [], 1)

    def test_peak_grows_with_what_is_held(self) -> None:
        before = peak_bytes()
        held = np.ones(64_000_000, np.uint8)
        assert peak_bytes() >= before
        assert held.nbytes < peak_bytes()


class TestCommand:
    def test_prints_ratios_with_units(self, cli: Cli, dense_onnx: Path) -> None:
        ran = cli("bench", dense_onnx, f"{dense_onnx}@torch", "--batch", "4", "--seconds", SECONDS, "--no-memory")
        assert ran.code == 0, ran.err
        assert "1.00x (1.00-1.00)" in ran.out
        assert "x [4, 8]" in ran.out
        assert "seed 0" in ran.out

    def test_json_has_host_versions_and_seed(self, cli: Cli, dense_onnx: Path) -> None:
        ran = cli("bench", dense_onnx, "--seconds", SECONDS, "--seed", 3, "--json")
        assert ran.code == 0, ran.err
        document = ran.document
        assert document["seed"] == 3
        assert {"host", "versions", "rows", "pairs", "shapes"} <= set(document)
        rows = document["rows"]
        assert isinstance(rows, list)
        assert rows[0]["memory_bytes"] >= 0
        assert rows[0]["load_seconds"] > 0
