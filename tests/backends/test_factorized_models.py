"""Every pass that factorizes or shares weights, or shortens tables, on every kind of model: it fires or says why not,
at full size nothing is lost, and all runtimes agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest
from tersor.ir.site import Kind, sites
from tersor.passes.catalogue import PASSES as CATALOGUE
from tersor.passes.lookups import tables
from tersor.tests.backends.held import (
    BACKENDS,
    Row,
    agrees,
    everywhere,
    fires_or_says_why_not,
    firing,
    leaves_as_it_is,
    loses_nothing,
)
from tersor.tests.passes.models import SHARED, example

held = partial(Row, models=SHARED)


def table(options: str, nothing: str | None) -> Row:
    """What passes over tables of words do, small ones too."""
    small = [None if each is None else each.replace("}", ", smallest=1024}") for each in (options, nothing)]
    return held(small[0] or "", small[1], ".+.+ +++++", "size: ")


KINDS = "convolutions=true, embeddings=true"
LEFT = "only: |kind: |size: |tied: "
RECURRENT = (Kind.RECURRENT_INPUT, Kind.RECURRENT_HIDDEN)
#: How large what a format makes is, by name; CP of a high rank takes long.
FORMS = {"tt": "ratio=0.5", "tucker": "ratio=0.5", "cp": "rank=8", "block-term": "ratio=0.5", "kronecker": "ratio=0.5"}
#: For each pass, or each of its methods. Of a model FULL, STATES and MOST are the largest rank of a linear weight, of
#: a recurrent one and of a table; WORDS and WIDTH the largest sizes of tables.
PASSES: Mapping[str, Row] = {
    "factorize-linear": held(
        "{ratio=0.6, probes=8}",
        "{ratio=1, probes=8}",
        "++++ ++-++",
        f"{LEFT}|budget: whole",
        whole="{rank=FULL, probes=8}",
    ),
    "factorize-recurrent": held("{ratio=0.6}", "{rank=STATES}", "-+-- --+++", f"{LEFT}|rank: all of it"),
    # no form of full rank holds fewer numbers than the weight
    **{
        f"factorize-tensor {each}": held(
            f"{{format={each}, {size}, {KINDS}}}",
            f"{{format={each}, {full}, {KINDS}}}",
            "++++ +++++",
            f"{LEFT}|recurrent: ",
        )
        for each, size in FORMS.items()
        for full in ["terms=1000000" if each == "kronecker" else "rank=1000000"]
    },
    "factorize-embedding low-rank": table("{method=low-rank}", "{method=low-rank, rank=MOST}"),
    # blocks are of a ratio, which is below 1
    "factorize-embedding blocks": table("{method=blocks}", None),
    "code-embedding product": table("{ratio=0.25, iterations=1}", "{entries=WORDS, width=0}"),
    "code-embedding residual": table(
        "{method=residual, entries=4, width=8, stages=2, iterations=1}",
        "{method=residual, stages=1, entries=WORDS, width=0}",
    ),
    "code-embedding sparse": table(
        "{method=sparse, atoms=8, nonzeros=2, iterations=1}", "{method=sparse, atoms=WORDS, nonzeros=1}"
    ),
    "share-embedding slim": table("{pool=64, width=8, iterations=1}", "{pool=WORDS, width=WIDTH}"),
    # a table of words has no more rows and columns than the root of their number
    "share-embedding lightrnn": table("{method=lightrnn, width=0, iterations=1}", None),
    "share-embedding sparse": table(
        "{method=sparse, common=8, nonzeros=2}", "{method=sparse, common=WORDS, nonzeros=1}"
    ),
    "share-embedding reference": table(
        "{method=reference, common=8, pool=16, width=8, iterations=1}", "{method=reference, common=WORDS, pool=4}"
    ),
    "share-layers": held("", "{groups=1000}", "+--- ++---", "blocks: none|shared: 1 sets"),
    # exact at any size; what equal layers hold is stored once before
    "loop-layers": held("", "{least=1000}", "---+ -----", "blocks: none|constants: |least: ", "", less="nodes"),
    "share-similar": held("{tolerance=0.5}", None, "...+ ++..-", "stored: "),
    "share-similar equal": held("{tolerance=1e-6}", None, "...+ .+..-", "stored: ", "{tolerance=1e-6}"),
    "share-identical": held("{transposed=true}", None, "...+ .+...", whole="{transposed=true}"),
    "share-basis": held("{ratio=0.6, probes=8}", "{rank=FULL, group=1}", "++++ ++-++", f"{LEFT}|ratio: whole"),
    # indices of 8 bits tell no more than 256 numbers apart
    "share-hashed kmeans": held(f"{{recurrent=true, {KINDS}}}", None, "++++ +++++", LEFT),
    # numbers are of a ratio, which is below 1
    "share-hashed hashed": held(f"{{method=hashed, recurrent=true, {KINDS}}}", None, "++++ +++++", LEFT),
}
#: Of large models a few sites stand for all, where those are chosen.
FEW: Mapping[tuple[str, str], str] = {
    ("factorize-linear", "minilm"): '"block:0", "block:1"',
    ("share-basis", "minilm"): '"block:0", "block:1"',
    ("share-hashed", "minilm"): '"block:0", "block:1", "*position*"',
    ("factorize-tensor", "minilm"): '"*layer.0.attention.self.query*", "*position*"',
    ("factorize-tensor", "lstm"): '"kind:embedding"',
}


def test_every_pass_is_held_to_every_model() -> None:
    families = (".factorize.", ".share.", ".embeddings.")
    assert sorted({each.split()[0] for each in PASSES}) == [
        name for name, path in CATALOGUE.items() if path.startswith(families)
    ]


def call(which: str, options: str, name: str, folder: Path) -> str:
    """A pass with its options, of the model's sizes."""
    if "format=tucker" in options or "format=block-term" in options:
        pytest.importorskip("tensorly")
    model, kind = example(name, folder).model, which.split()[0]
    shapes = [(table.rows, table.width) for table in tables(model)]
    full = {each: min(each.in_features, each.out_features) for each in sites(model)}
    sizes = {
        "FULL": max((rank for each, rank in full.items() if each.kind is Kind.LINEAR), default=1),
        "STATES": max((rank for each, rank in full.items() if each.kind in RECURRENT), default=1),
        "MOST": max(map(min, shapes), default=1),
        "WORDS": max((words for words, _ in shapes), default=2),
        "WIDTH": max((width for _, width in shapes), default=1),
    }
    for each, size in sizes.items():
        options = options.replace(each, str(size))
    if (kind, name) in FEW:
        options = options.replace("}", f", only=[{FEW[kind, name]}]}}")
    return kind + options


def as_told(which: str, name: str, folder: Path) -> str:
    return call(which, PASSES[which].options, name, folder)


@pytest.mark.parametrize(("which", "name"), everywhere(PASSES))
def test_it_fires_or_says_why_not(which: str, name: str, shared_tmp: Path) -> None:
    fires_or_says_why_not(PASSES[which], as_told(which, name, shared_tmp), name, shared_tmp)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("which", "name"), firing(PASSES))
def test_backends_agree_with_the_graph(which: str, name: str, backend: str, shared_tmp: Path) -> None:
    agrees(as_told(which, name, shared_tmp), name, backend, shared_tmp)


@pytest.mark.parametrize(
    ("which", "name"), everywhere({each: row for each, row in PASSES.items() if row.nothing is not None})
)
def test_what_is_of_full_size_stays_as_it_is(which: str, name: str, shared_tmp: Path) -> None:
    leaves_as_it_is(call(which, PASSES[which].nothing or "", name, shared_tmp), name, shared_tmp)


@pytest.mark.parametrize(
    ("which", "name"), everywhere({each: row for each, row in PASSES.items() if row.whole is not None})
)
def test_full_size_loses_nothing(which: str, name: str, shared_tmp: Path) -> None:
    loses_nothing(PASSES[which], call(which, PASSES[which].whole or "", name, shared_tmp), name, shared_tmp)
