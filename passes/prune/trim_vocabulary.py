"""Rows out of embedding tables that no text looks up, in the graph and in the tokenizer file together.

    before   x = Gather(table, ids)                            table [30522, 384]
    after    x = Gather(table', Gather(rows, ids))             table' [8000, 384], rows [30522]       ids=old
             x = Gather(table', ids')                          ids' as the trimmed tokenizer gives    ids=new

Exact on the tokens that stay: those of the corpus and of the calibration data, and what the tokenizer cannot do without
(`prune.tokens`). Others are read as the unknown token, or fall into pieces. The artifact holds the trimmed
`tokenizer.json` (ids=new) and `vocabulary.json`, which says of each row that stays which it was. Left alone: tables
whose rows are found by computed numbers, as positions are; tables that the vocabulary of an output is tied to, unless
asked for; with ids=new, inputs that something else than a lookup reads.

Source: Zhao et al., Extremely Small BERT Models from Mixed-Vocabulary Training, 2019.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...ir.axes import Axis
from ...ir.errors import ModelError, OptionError
from ...ir.provenance import scope, sources
from ...ir.text import place
from ..accumulators import TokenCounts
from ..base import Context, Contract, Exact, Finding, Miss, Outcome, Pass
from ..cutting import cut
from ..edit import Tape, reroute
from ..reading import lines, parse_tokenizer, read_tokenizer
from ..renumbering import Ids, Renumbering
from .tables import Table, tables
from .tokens import Tokens

if TYPE_CHECKING:
    from tokenizers import Encoding

#: How many rows more than the tokenizer has tokens a table may have, and this share of them: rows made up for kernels.
_PADDING, _SHARE = 1024, 8
#: Texts that are tokenized at a time.
_BATCH = 512


@dataclass(frozen=True, kw_only=True)
class TrimVocabulary(Pass):
    """rows out of embedding tables that no text looks up, and the tokenizer with them

    corpus: texts whose tokens stay, one a line, or JSON lines; needs the tokenizer.
    tokenizer: the model's tokenizers file, `tokenizer.json`.
    least: how often a token must be seen to stay, in the corpus and the calibration data together.
    ids: `old`, the model takes the ids that it took, and a lookup finds their rows; `new`, it takes those of the
        trimmed tokenizer.
    outputs: take in outputs over the vocabulary: they become as long as what is left of it.
    characters: single characters stay, so that trimmed words fall into pieces.
    unknown: the id that trimmed ones are read as; the tokenizer's own by default.
    smallest: fewest rows of a table that is taken for one of tokens.
    """

    name: ClassVar[str] = "trim-vocabulary"
    contract: ClassVar[Contract] = Exact()
    #: What ids mean, and how long outputs over the vocabulary are.
    changes_signature: ClassVar[bool] = True
    corpus: str | None = None
    tokenizer: str | None = None
    least: int = 1
    ids: Literal["old", "new"] = "old"
    outputs: bool = False
    characters: bool = True
    unknown: int | None = None
    smallest: int = 16

    def __post_init__(self) -> None:
        if self.corpus is not None and self.tokenizer is None:
            raise OptionError(f"{self.name}: the corpus is read by a tokenizer: give tokenizer=PATH of tokenizer.json")
        if self.least < 1:
            raise OptionError(f"{self.name}: expected least of at least 1, found {self.least}")

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        tokens = None if self.tokenizer is None else _tokens(self.tokenizer)
        verdicts = self._verdicts(model, tokens)
        groups: dict[int, list[Table]] = {}
        for each, miss in verdicts:
            if miss is None:
                groups.setdefault(each.rows, []).append(each)
        # a tokenizer has one vocabulary, whatever the tables over it
        every = [each for members in groups.values() for each in members]
        plans = {
            rows: self._plan(members, members if tokens is None else every, tokens, context)
            for rows, members in groups.items()
        }
        cuts = [(members, plans[rows].renumbering) for rows, members in groups.items() if plans[rows].fewer]
        renumbered = [made for _, made in cuts]
        files = _files(self.ids, renumbered, tokens) if renumbered else {}
        _cut(cuts)
        findings = [_finding(each, miss or plans[each.rows].miss, plans.get(each.rows)) for each, miss in verdicts]
        findings += [
            Finding(f"vocabulary of {rows:,}", miss=plan.lost)
            for rows, plan in plans.items()
            if plan.fewer and plan.lost is not None
        ]
        return Outcome(tuple(findings), files=files, renumbered=tuple(renumbered))

    def explain(self, model: ir.Model, context: Context) -> Outcome:
        """The verdict at every table, leaving `model` as it is."""
        tokens = None if self.tokenizer is None else _tokens(self.tokenizer)
        found = self._verdicts(model, tokens)
        known = self.corpus is not None or context.calibration is not None
        every = [each for each, miss in found if miss is None]
        plans = {each.rows: self._plan([each], every, tokens, context) for each in every if known}
        return Outcome(tuple(_finding(each, miss, plans.get(each.rows)) for each, miss in found))

    def _verdicts(self, model: ir.Model, tokens: Tokens | None) -> list[tuple[Table, Miss | None]]:
        candidates = [each for each in tables(model, outputs=self.outputs) if each.rows >= self.smallest]
        found = [(each, self._verdict(each, tokens)) for each in candidates]
        if tokens is not None and found and all(miss is not None and miss.rule == "rows" for _, miss in found):
            sizes = ", ".join(f"{each.rows:,}" for each, _ in found)
            raise ModelError(
                f"{tokens.name} has {tokens.size:,} tokens, and the tables that ids of the model look up have {sizes} "
                "rows: it is the tokenizer of another model"
            )
        whole = [each for each, miss in found if miss is not None]
        return [(each, miss or self._beside(each, whole)) for each, miss in found]

    def _beside(self, each: Table, whole: Sequence[Table]) -> Miss | None:
        """With new ids, tables that one input looks up are cut together or not at all."""
        other = next((other for other in whole if set(other.inputs) & set(each.inputs)), None)
        if self.ids == "old" or other is None:
            return None
        return Miss("ids", f"{other.name}, looked up by them too, stays whole", "tables that are all cut", near=True)

    def _verdict(self, each: Table, tokens: Tokens | None) -> Miss | None:
        if tokens is not None:
            most = tokens.size + max(_PADDING, tokens.size // _SHARE)
            if not tokens.size <= each.rows <= most:
                need = f"the {tokens.size:,} rows that the tokenizer has tokens, or a few more"
                return Miss("rows", f"{each.rows:,} rows", need, near=True)
        elsewhere = each.elsewhere
        if self.ids == "new" and elsewhere is not None:
            need = "ids that lookups alone read, or ids=old"
            return Miss("ids", f"read by {place(elsewhere)}", need, near=True)
        if self.unknown is None and (tokens is None or (tokens.unknown is None and self.ids == "old")):
            return Miss("unknown", "no token stands for what is trimmed", "unknown=ID", near=True)
        if self.unknown is not None and not 0 <= self.unknown < each.rows:
            return Miss("unknown", f"the id {self.unknown}", f"one of the {each.rows:,} rows", near=True)
        return each.held

    def _plan(self, members: Sequence[Table], every: Sequence[Table], tokens: Tokens | None, context: Context) -> _Plan:
        """Which rows of tables of one size stay; every: all tables whose data count."""
        rows = members[0].rows
        inputs = tuple(dict.fromkeys(name for each in members for name in each.inputs))
        counted = tuple(dict.fromkeys(name for each in every for name in each.inputs))
        corpus, data = self._counts(tokens, rows), _counts_of_data(context, counted, rows)
        if corpus is None and data is None:
            raise OptionError(
                f"{self.name} has to know which tokens are used: give corpus=PATH and tokenizer=PATH, or --data"
            )
        counts = sum((each for each in (corpus, data) if each is not None), np.zeros(rows, np.int64))
        keep = counts >= self.least
        unknown = self.unknown if self.unknown is not None or tokens is None else tokens.unknown
        if tokens is not None:
            keep[list(tokens.needed(characters=self.characters))] = True
            keep[list(tokens.closed(np.flatnonzero(keep[: tokens.size]).tolist()))] = True
        old = np.flatnonzero(keep)
        if unknown is not None:
            old = np.union1d(old, [unknown])
        new = 0 if unknown is None else int(np.searchsorted(old, unknown))
        axes = {name: axis for each in members for name, axis in each.outputs.items()}
        made = Renumbering(inputs, rows, old, new, self.ids == "new", axes)
        gone = int(counts.sum() - counts[old].sum())
        lost = Miss(
            "trimmed",
            f"{gone:,} of {int(counts.sum()):,} tokens of the texts",
            "tokens that stay; they are read as unknown, or in pieces. A smaller least keeps them",
            near=True,
        )
        return _Plan(made, lost if gone else None)

    def _counts(self, tokens: Tokens | None, rows: int) -> Ids | None:
        """How often each token is in the corpus, as the tokenizer gives it, special ones included."""
        if self.corpus is None or tokens is None:
            return None
        path = Path(self.corpus).expanduser()
        if not path.is_file():
            raise OptionError(f"{self.name}: no file {path}: corpus is a text file, or JSON lines")
        encode = read_tokenizer(Path(tokens.name))
        encode.no_padding()
        encode.no_truncation()
        found = TokenCounts(rows)
        block: list[str | tuple[str, str]] = []
        for text in lines(path):
            block.append(text)
            if len(block) == _BATCH:
                _count(found, encode.encode_batch(block))
                block = []
        _count(found, encode.encode_batch(block))
        return found.counts


@dataclass(frozen=True)
class _Plan:
    """lost: what of the texts is trimmed."""

    renumbering: Renumbering
    lost: Miss | None

    @property
    def fewer(self) -> bool:
        return len(self.renumbering.old) < self.renumbering.size

    @property
    def miss(self) -> Miss | None:
        size = self.renumbering.size
        return None if self.fewer else Miss("tokens", f"all {size:,} are used", "some that no text has")


def _tokens(name: str) -> Tokens:
    path = Path(name).expanduser()
    if not path.is_file():
        raise OptionError(f"trim-vocabulary: no file {path}: tokenizer is the model's tokenizer.json")
    return Tokens.parse(path.read_text(encoding="utf-8"), str(path))


def _count(found: TokenCounts, encodings: Iterable[Encoding]) -> None:
    for each in encodings:
        found.add(np.asarray(each.ids, np.int64))


def _counts_of_data(context: Context, inputs: Sequence[str], rows: int) -> Ids | None:
    """How often each row is looked up for the calibration data, padding included: it is looked up too."""
    if context.calibration is None:
        return None
    found = TokenCounts(rows)
    for batch in context.calibration.batches:
        for name in inputs:
            try:
                found.add(np.asarray(batch[name]))
            except ModelError as error:
                raise ModelError(f"calibration: {name}: {error}") from error
    return found.counts


def _cut(cuts: Sequence[tuple[Sequence[Table], Renumbering]]) -> None:
    """Leave the kept rows of tables, and let ids find them."""
    keep: dict[Axis, NDArray[np.bool_]] = {}
    for members, made in cuts:
        mask: NDArray[np.bool_] = np.zeros(made.size, np.bool_)
        mask[made.old] = True
        keep |= {axis: mask for each in members for axis in each.axes}
    if keep:
        cut(cuts[0][0][0].found, keep)
    for members, made in cuts:
        if not made.renumbered:
            _find_rows(dict.fromkeys(node for each in members for node in each.lookups), made)


def _find_rows(lookups: Iterable[ir.Node], made: Renumbering) -> None:
    """Look up for each old id which row it has."""
    read: dict[ir.Value, ir.Value] = {}
    for node in lookups:
        ids = node.inputs[1]
        assert ids is not None
        tape = Tape()
        if ids not in read:
            rows = tape.constant(made.new.astype(np.int32), "rows")
            read[ids] = tape("Gather", rows, ids)
            read[ids].type, read[ids].shape = ir.TensorType(ir.DataType.INT32), ids.shape
        reroute(tape, node, ids, read[ids])


def _finding(each: Table, miss: Miss | None, plan: _Plan | None) -> Finding:
    told = "" if plan is None or miss is not None else f"{each.rows:,} -> {len(plan.renumbering.old):,} rows"
    return Finding(f"{each.name} ({place(each.node)})", sources(each.node), miss, scope(each.node), told)


def _files(ids: str, renumbered: Sequence[Renumbering], tokens: Tokens | None) -> Mapping[str, bytes]:
    """The trimmed tokenizer, and which row was which."""
    said = [
        {
            "ids": ids,
            "inputs": list(each.inputs),
            "outputs": sorted(each.outputs or ()),
            "rows": each.size,
            "unknown": each.unknown,
            "old": each.old.tolist(),
        }
        for each in renumbered
    ]
    files = {"vocabulary.json": (json.dumps(said) + "\n").encode()}
    if tokens is not None and ids == "new":
        files["tokenizer.json"] = _trimmed(tokens, renumbered[0]).encode()
    return files


def _trimmed(tokens: Tokens, made: Renumbering) -> str:
    """The trimmed file. Raises ModelError where `tokenizers` numbers its tokens otherwise than the rows."""
    text = tokens.trimmed(made.old, made.size)
    read = parse_tokenizer(text, tokens.name)
    for token, number in Tokens.parse(text, tokens.name).numbers.items():
        if read.token_to_id(token) != number:
            raise ModelError(
                f"{tokens.name}: {token!r} is to be number {number} of what stays, and tokenizers reads it as "
                f"{read.token_to_id(token)}: its added tokens do not follow the others; use ids=old"
            )
    return text
