"""Artifact folders: opening them, and every way in which one can be damaged."""

from __future__ import annotations

import json
import shutil
import typing
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tersor
from tersor.backends.base import Interface
from tersor.backends.catalogue import find
from tersor.driver import manifest as manifests
from tersor.driver.manifest import interface_data, interface_of, read_manifest
from tersor.ir.dimensions import set_ranges
from tersor.ir.errors import ModelError, TersorError, UnsupportedError
from tersor.ir.text import graph

FEEDS = {"x": np.ones((2, 4), np.float32)}
Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = graph(
        "h = MatMul(x, weight)",
        "y = Relu(h)",
        inputs={"x": "float[batch, 4]"},
        weight=np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32),
    )
    set_ranges(model, {"batch": (1, 8)})
    folder = tmp_path_factory.mktemp("artifact") / "out"
    tersor.compile(model, target="onnxruntime", output=folder)
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def _edit(**changes: object) -> Damage:
    def edit(folder: Path) -> None:
        path = folder / "manifest.json"
        stored = json.loads(path.read_text())
        stored.update(changes)
        path.write_text(json.dumps({key: value for key, value in stored.items() if value is not None}))

    return edit


def _flip(name: str) -> Damage:
    def flip(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 0xFF
        (folder / name).write_bytes(content)

    return flip


def _cut(name: str) -> Damage:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-1])


def _remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def test_a_copy_opens_and_runs(whole: Path, copy: Path) -> None:
    found = tersor.open(copy, verify=True).run(FEEDS)
    np.testing.assert_array_equal(found["y"], tersor.open(str(whole)).run(FEEDS)["y"])


def test_the_session_knows_its_interface(copy: Path) -> None:
    interface = tersor.open(copy).interface
    assert [str(port) for port in interface.signature.inputs] == ["x: float[batch, 4]"]
    assert dict(interface.ranges) == {"batch": (1, 8)}
    with pytest.raises(ModelError, match=r"batch 9, outside 1\.\.8"):
        tersor.open(copy).run({"x": np.ones((9, 4), np.float32)})


def test_interfaces_survive_json() -> None:
    model = graph("y = Add(x, s)", inputs={"x": "float16[batch, ?, 4]", "s": "float16"})
    set_ranges(model, {"batch": (2, None)})
    interface = Interface.of(model)
    assert interface_of(json.loads(json.dumps(interface_data(interface)))) == interface


def test_what_people_read_may_be_missing(copy: Path) -> None:
    (copy / "report.html").unlink()
    (copy / "recipe.yaml").unlink()
    tersor.open(copy).run(FEEDS)
    with pytest.raises(ModelError, match=r"damaged: recipe.yaml is missing; report.html is missing"):
        tersor.open(copy, verify=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove("manifest.json"), "is no artifact: it has no manifest.json"),
        (_remove("model.onnx"), "damaged: model.onnx is missing"),
        (_cut("model.onnx"), r"damaged: model.onnx has \d+ bytes, expected \d+"),
        (_flip("model.onnx"), "damaged: model.onnx has other contents than were written"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "is no manifest of tersor"),
        (lambda folder: (folder / "manifest.json").write_text('{"schema"'), "manifest.json cannot be read"),
        (_edit(schema=99), r"has schema 99, written by tersor .*; this version reads up to 1: upgrade tersor"),
        (_edit(schema="1"), "is no manifest of tersor"),
        (_edit(target=None), "lacks target"),
        (_edit(interface={"inputs": []}), "the manifest's interface is not what tersor writes"),
    ],
)
def test_damage_is_named(copy: Path, damage: Damage, message: str) -> None:
    damage(copy)
    with pytest.raises(ModelError, match=message) as caught:
        tersor.open(copy)
    assert str(copy) in str(caught.value) or "manifest" in str(caught.value)


def test_a_large_file_is_hashed_on_demand(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tersor.driver import artifact

    monkeypatch.setattr(artifact, "CHECKED_BYTES", 10)
    _flip("report.html")(copy)
    tersor.open(copy)
    with pytest.raises(ModelError, match=r"report.html has other contents"):
        tersor.open(copy, verify=True)


def test_there_must_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no folder .*none: expected an artifact"):
        tersor.open(tmp_path / "none")


def test_a_missing_runtime_is_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find("onnxruntime"), "version", classmethod(lambda cls: None))
    with pytest.raises(UnsupportedError, match="runs on onnxruntime, which is not installed; pip install"):
        tersor.open(copy)


def test_an_unknown_backend_is_named(copy: Path) -> None:
    target = read_manifest(copy)["target"]
    _edit(target={**target, "backend": "fancy"})(copy)
    with pytest.raises(
        UnsupportedError, match="compiled for a backend that is not installed: there is no target 'fancy'"
    ):
        tersor.open(copy)


def test_a_manifest_names_no_code(copy: Path) -> None:
    target = read_manifest(copy)["target"]
    _edit(target={**target, "backend": "os:system"})(copy)
    with pytest.raises(TersorError, match="there is no target 'os:system'"):
        tersor.open(copy)


def test_a_temporary_artifact_lives_as_long_as_its_session() -> None:
    artifact = tersor.compile(graph("y = Relu(x)", inputs={"x": "float[batch, 4]"}), target="onnxruntime")
    path, session = artifact.path, artifact.session
    assert artifact.model is not None
    assert [node.op_type for node in artifact.model.graph] == ["Relu"]
    del artifact
    assert session.run(FEEDS)["y"].tolist() == FEEDS["x"].tolist()
    del session
    assert not path.exists()


def test_the_schema_and_the_types_agree() -> None:
    folder = Path(manifests.__file__).parent / "schema"
    schema = json.loads((folder / "manifest.schema.json").read_text("utf-8"))
    assert schema["properties"]["schema"]["const"] == manifests.SCHEMA
    assert set(schema["required"]) == set(schema["properties"]) == manifests.Manifest.__required_keys__
    hints = typing.get_type_hints(manifests.Manifest)
    for name in ("source", "target", "host", "interface", "contract", "sizes", "quality", "layers"):
        assert set(schema["properties"][name]["required"]) == hints[name].__required_keys__, name
    kinds = {"candidate": manifests.CandidateData, "port": manifests.PortData, "interval": manifests.IntervalData}
    kinds |= {"layer": manifests.LayerData}
    for name, kind in kinds.items():
        assert set(schema["$defs"][name]["required"]) == kind.__required_keys__, name
