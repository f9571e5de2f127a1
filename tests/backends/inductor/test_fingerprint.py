"""Which packages a machine takes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from tersor.backends.inductor.fingerprint import Machine, required_flags
from tersor.ir.errors import ModelError

AVX512 = ("fpu", "avx2", "fma", "f16c", "avx512f", "avx512dq", "avx512vl", "avx512bw")
HERE = Machine(torch="2.13.0", system="Linux", machine="x86_64", features=AVX512)
OLD = dataclasses.replace(HERE, features=AVX512[:4])
GPU = dataclasses.replace(HERE, cuda="12.8", gpu="H200", capability="9.0")
FLAGS = {"avx2": "-mavx2 -mfma -mf16c", "avx512": "-mavx512f -mavx512dq -mavx512vl -mavx512bw -mfma"}


@pytest.mark.parametrize(
    ("built_on", "vectors", "here", "runs"),
    [
        (HERE, "avx512", HERE, True),
        (OLD, "avx2", HERE, True),
        (HERE, "avx2", OLD, True),
        (HERE, "avx512", OLD, False),
        (HERE, "avx2", dataclasses.replace(HERE, torch="2.13.1"), True),
        (HERE, "avx2", dataclasses.replace(HERE, torch="2.14.0"), False),
        (HERE, "avx2", dataclasses.replace(HERE, machine="aarch64", features=("asimd",)), False),
        (HERE, "avx2", dataclasses.replace(HERE, system="Darwin"), False),
        (HERE, "avx512", dataclasses.replace(HERE, features=None), True),
        (HERE, "avx2", GPU, True),
        (GPU, "avx2", GPU, True),
        (GPU, "avx2", dataclasses.replace(GPU, capability="8.0", gpu="A100"), False),
        (GPU, "avx2", dataclasses.replace(GPU, cuda="13.0"), False),
        (GPU, "avx2", dataclasses.replace(GPU, cuda="12.9"), True),
        (GPU, "avx2", HERE, False),
    ],
)
def test_runs_where_everything_it_needs_is_there(built_on: Machine, vectors: str, here: Machine, runs: bool) -> None:
    assert (built_on.needed(vectors, FLAGS[vectors]).unmet(here) == []) is runs


def test_says_what_is_lacking() -> None:
    unmet = HERE.needed("avx512", FLAGS["avx512"]).unmet(OLD)
    assert unmet == ["it is code for avx512, and this CPU has no avx512f, avx512dq, avx512vl, avx512bw"]


def test_code_for_this_very_cpu_needs_all_of_its_instructions() -> None:
    assert required_flags("-mavx2 -march=native", AVX512) == ("avx2", *AVX512[2:])


def test_integer_products_need_their_instructions() -> None:
    every = (*AVX512, "avx512_vnni", "avx_vnni")
    assert required_flags("-mavx512vnni -mavxvnni -mamx-int8", every) == ("avx512_vnni", "avx_vnni", "amx_int8")


def test_is_read_as_it_was_written() -> None:
    needs = GPU.needed("avx2", FLAGS["avx2"])
    assert Machine.read(json.loads(json.dumps(needs.to_dict())), Path("runtime.json")) == needs


@pytest.mark.parametrize("stored", [None, {}, {"torch": "2.13.0", "planet": "Mars"}, []])
def test_anything_else_is_refused(stored: object) -> None:
    with pytest.raises(ModelError, match="does not say what it was compiled for"):
        Machine.read(stored, Path("runtime.json"))


def test_this_machine_runs_its_own_code() -> None:
    here = Machine.here("cpu")
    assert here.needed("none", "-march=native").unmet(here) == []
