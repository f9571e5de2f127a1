"""A `tokenizers` file with fewer tokens, that cuts text made of those that stay as it did before.

    WordPiece   takes the longest token first: with fewer to choose from, the longest is still there
    BPE         merges by rank: the merges that lead to a token that stays, stay, in their order
    Unigram     takes the likeliest cut: it is still there; what an unknown character costs hangs on the least
                likely token, which stays
    WordLevel   looks words up

Single characters stay where asked for, bytes always, so that what is trimmed falls into pieces and not into unknowns.
Numbers are given anew in their old order, and whoever names one (added tokens, templates, padding) is told.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from ...ir.errors import ModelError
from ..renumbering import Ids

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")

#: What json reads.
Data = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of a `tokenizers` file. name: of the file, for errors."""

    name: str
    data: Data

    @classmethod
    def parse(cls, text: str, name: str) -> Tokens:
        """Raises ModelError for a file of another kind, and one that names tokens which it does not have."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ModelError(f"{name} is no tokenizers file: {error}") from error
        if not isinstance(data, dict) or not isinstance(data.get("model"), dict) or "vocab" not in data["model"]:
            raise ModelError(f"{name} is no tokenizers file: expected a 'model' with a 'vocab'")
        made = cls(name, data)
        if made.kind not in ("WordPiece", "BPE", "Unigram", "WordLevel"):
            raise ModelError(f"{name}: expected a model of WordPiece, BPE, Unigram or WordLevel, found {made.kind}")
        made._check()
        return made

    @property
    def kind(self) -> str:
        """Of the model; older files leave it to be seen."""
        model = self._model
        found = "Unigram" if isinstance(model["vocab"], list) else "BPE" if "merges" in model else "WordPiece"
        return str(model.get("type") or found)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each token, added ones included."""
        vocab = self._model["vocab"]
        known = {token: at for at, (token, _) in enumerate(vocab)} if isinstance(vocab, list) else dict(vocab)
        return known | {each["content"]: each["id"] for each in self._added}

    @property
    def size(self) -> int:
        """One more than the largest number."""
        return max(self.numbers.values(), default=-1) + 1

    @property
    def unknown(self) -> int | None:
        """The number of the token for what no other stands for; None where there is none."""
        if self.kind == "Unigram":
            number: int | None = self._model.get("unk_id")
            return number
        return self.numbers.get(self._model.get("unk_token") or "")

    def needed(self, *, characters: bool) -> set[int]:
        """The tokens that must stay whatever texts hold."""
        found = {each["id"] for each in self._added} | {number for _, number in self._named()}
        if self.unknown is not None:
            found.add(self.unknown)
        bytewise = bool(self._model.get("byte_fallback"))
        for token, number in self.numbers.items():
            if (bytewise and _BYTE.fullmatch(token)) or (characters and len(self._bare(token)) == 1):
                found.add(number)
        vocab = self._model["vocab"]
        if isinstance(vocab, list) and vocab:
            found.add(min(range(len(vocab)), key=lambda at: float(vocab[at][1])))
        return found

    def closed(self, kept: Iterable[int]) -> set[int]:
        """These tokens and those that they are merged from."""
        found = set(kept)
        if self.kind == "BPE":
            names = {number: token for token, number in self.numbers.items()}
            for number in list(found):
                found |= {self.numbers[piece] for piece in self._merged(names[number])} if number in names else set()
        return found

    def trimmed(self, old: Ids, size: int) -> str:
        """The file with only the tokens whose numbers `old` lists, in order, of `size` that there were."""
        new = np.full(max(size, self.size), -1)
        new[old] = np.arange(len(old))
        number = {token: int(new[at]) for token, at in self.numbers.items() if new[at] >= 0}
        data: Data = json.loads(json.dumps(self.data))
        model = data["model"]
        if isinstance(model["vocab"], list):
            model["vocab"] = [entry for at, entry in enumerate(model["vocab"]) if new[at] >= 0]
            if model.get("unk_id") is not None:
                model["unk_id"] = int(new[model["unk_id"]])
        else:
            model["vocab"] = {token: number[token] for token in model["vocab"] if token in number}
        if "merges" in model:
            kept = model["vocab"]
            model["merges"] = [
                merge
                for merge, (left, right) in zip(model["merges"], self._merges, strict=True)
                if left in kept and right in kept and self._joined(left, right) in kept
            ]
        for each in data.get("added_tokens") or ():
            each["id"] = int(new[each["id"]])
        if data.get("padding"):
            data["padding"]["pad_id"] = int(new[data["padding"]["pad_id"]])
        _renumber(data.get("post_processor"), new)
        return json.dumps(data, ensure_ascii=False, indent=1)

    @property
    def _model(self) -> Data:
        found: Data = self.data["model"]
        return found

    @property
    def _added(self) -> list[Data]:
        return list(self.data.get("added_tokens") or ())

    def _named(self) -> Iterator[tuple[str, int]]:
        """Tokens that other parts of the file name by number."""
        padding = self.data.get("padding")
        if padding:
            yield padding["pad_token"], padding["pad_id"]
        yield from _named(self.data.get("post_processor"))

    def _check(self) -> None:
        unknown = self._model.get("unk_token")
        wrong = [] if unknown is None or unknown in self.numbers else [f"its unknown token {unknown!r}"]
        if self.kind == "Unigram" and self.unknown is not None and not 0 <= self.unknown < len(self._model["vocab"]):
            wrong.append(f"its unknown token, number {self.unknown}")
        if self.kind in ("WordPiece", "WordLevel") and unknown is None:
            wrong.append("an unknown token")
        for token, number in self._named():
            if self.numbers.get(token) != number:
                wrong.append(f"{token!r} as number {number}, which its post-processor or padding names")
        if wrong:
            raise ModelError(f"{self.name}: the vocabulary lacks {'; '.join(dict.fromkeys(wrong))}: mend the file")

    @property
    def _prefix(self) -> str:
        found = self._model.get("continuing_subword_prefix")
        return str(found or "")

    @property
    def _suffix(self) -> str:
        return str(self._model.get("end_of_word_suffix") or "")

    def _bare(self, token: str) -> str:
        return token.removeprefix(self._prefix).removesuffix(self._suffix) or token

    @cached_property
    def _merges(self) -> list[tuple[str, str]]:
        pairs = (each.split(" ", 1) if isinstance(each, str) else each for each in self._model["merges"])
        return [(left, right) for left, right in pairs]

    @cached_property
    def _ranks(self) -> dict[tuple[str, str], int]:
        return {pair: rank for rank, pair in enumerate(self._merges)}

    def _joined(self, left: str, right: str) -> str:
        return left + right.removeprefix(self._prefix)

    def _merged(self, token: str) -> set[str]:
        """All pieces on the way from characters to a token; none where merges do not lead there.

        Merges inside of what becomes one token do not depend on what is beside it.
        """
        continued = bool(self._prefix) and token.startswith(self._prefix)
        body = token.removeprefix(self._prefix) if continued else token
        ended = bool(self._suffix) and body.endswith(self._suffix)
        body = body.removesuffix(self._suffix) if ended else body
        pieces = [self._prefix * (continued or at > 0) + letter for at, letter in enumerate(body)]
        if pieces and ended:
            pieces[-1] += self._suffix
        found, last = set(pieces), len(self._ranks)
        while len(pieces) > 1:
            ranks = [self._ranks.get(pair, last) for pair in pairwise(pieces)]
            at = int(np.argmin(ranks))
            if ranks[at] == last:
                return set()
            pieces[at : at + 2] = [self._joined(pieces[at], pieces[at + 1])]
            found.add(pieces[at])
        return {piece for piece in found if piece in self.numbers} if pieces == [token] else set()


def _named(processor: Data | None) -> Iterator[tuple[str, int]]:
    """The tokens that a post-processor puts in, and the numbers that it gives them."""
    if processor is None:
        return
    for inner in processor.get("processors") or ():
        yield from _named(inner)
    for end in ("sep", "cls"):
        if isinstance(processor.get(end), list):
            token, number = processor[end]
            yield token, number
    special = processor.get("special_tokens")
    for each in special.values() if isinstance(special, dict) else ():
        yield from zip(each["tokens"], each["ids"], strict=True)


def _renumber(processor: Data | None, new: Ids) -> None:
    if processor is None:
        return
    for inner in processor.get("processors") or ():
        _renumber(inner, new)
    for end in ("sep", "cls"):
        if isinstance(processor.get(end), list):
            processor[end][1] = int(new[processor[end][1]])
    special = processor.get("special_tokens")
    for each in special.values() if isinstance(special, dict) else ():
        each["ids"] = [int(new[number]) for number in each["ids"]]
