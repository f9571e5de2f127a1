"""`doctor`: what it looks at, and what it says of what is missing or broken."""

from __future__ import annotations

import pytest
from tersor.backends import catalogue
from tersor.driver import doctor
from tersor.driver.doctor import Check, examine, parse_features
from tersor.ir.errors import UnsupportedError
from tersor.tests.driver.support import Cli

X86 = """processor : 0
model name : AMD EPYC 9B45 64-Core Processor
flags : fpu sse2 avx2 fma avx512f avx512_vnni avx512_bf16 sha_ni
"""
ARM = """processor : 0
BogoMIPS : 2000.00
Features : fp asimd aes asimddp sve i8mm bf16
"""


@pytest.mark.parametrize(
    ("text", "features"),
    [
        (X86, ["avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16"]),
        (ARM, ["asimd", "asimddp", "i8mm", "bf16", "sve"]),
        ("", []),
    ],
)
def test_reads_the_features_of_either_kind_of_processor(text: str, features: list[str]) -> None:
    assert parse_features(text) == features


def test_every_installed_runtime_runs_a_model() -> None:
    found = {check.subject: check for check in examine()}
    assert found["target onnxruntime"].value.endswith("runs a one-node model")
    assert found["temp folder"].state in {"ok", "note"}
    assert found["torch"].state == "ok"


def test_a_missing_optional_package_is_a_note_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "openvino" else "1")
    found = {check.subject: check for check in examine()}
    assert found["openvino"] == Check("openvino", "not installed", "note", "pip install 'tersor[openvino]'")


def test_a_missing_needed_package_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "onnx" else "1")
    found = {check.subject: check for check in examine()}
    assert (found["onnx"].state, found["onnx"].hint) == ("broken", "pip install onnx")


def test_a_runtime_that_fails_is_broken_and_the_exit_code_says_so(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(target: str) -> None:
        raise UnsupportedError(f"{target} is out of order")

    monkeypatch.setattr(catalogue, "create", fail)
    ran = cli("doctor", "--json")
    assert ran.code == 1
    document = ran.document
    assert document["ok"] is False
    checks = document["checks"]
    assert isinstance(checks, list)
    (check,) = (check for check in checks if check["subject"] == "target onnxruntime")
    assert check["state"] == "broken"
    assert "onnxruntime is out of order" in check["value"]


def test_prints_a_verdict(cli: Cli) -> None:
    ran = cli("doctor")
    assert ran.code == 0, ran.out
    assert ran.out.endswith("\nready\n")
