"""Tokenizers with fewer tokens cut what is left of the vocabulary as they did before."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from tersor.ir.errors import ModelError
from tersor.passes.prune.tokens import Tokens
from tersor.tests.passes.prune.vocabularies import CORPUS, KINDS, TEXTS, wordpiece
from tokenizers import Tokenizer


def trimmed(made: Tokenizer, texts: list[str], *, characters: bool = True) -> tuple[Tokenizer, np.ndarray]:
    """The tokenizer with the tokens of texts and what it needs; the old number of each new one."""
    read = Tokens.parse(made.to_str(), "tokenizer.json")
    used = {number for each in made.encode_batch(texts) for number in each.ids}
    old = np.array(sorted(read.closed(used | read.needed(characters=characters))))
    return Tokenizer.from_str(read.trimmed(old, read.size)), old


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_kept_tokens_are_cut_alike(kind: str) -> None:
    made = KINDS[kind]()
    fewer, old = trimmed(made, CORPUS)
    assert len(old) < made.get_vocab_size()
    kept, compared = set(old.tolist()), 0
    for each in (made, fewer):
        each.no_padding()
    rng = np.random.default_rng(0)
    words = sorted({word for text in TEXTS for word in text.split()})
    texts = [*TEXTS, *(" ".join(rng.choice(words, 4)) for _ in range(200))]
    for before, after in zip(made.encode_batch(texts), fewer.encode_batch(texts), strict=True):
        if set(before.ids) <= kept:
            compared += 1
            assert old[np.array(after.ids)].tolist() == before.ids
            assert after.tokens == before.tokens
    assert compared > 3


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_has_the_number_of_its_row(kind: str) -> None:
    made = KINDS[kind]()
    fewer, old = trimmed(made, CORPUS)
    assert fewer.get_vocab_size() == len(old)
    assert [fewer.id_to_token(new) for new in range(len(old))] == [made.id_to_token(int(number)) for number in old]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "bytewise", "unigram"])
def test_what_is_trimmed_falls_into_pieces(kind: str) -> None:
    fewer, _ = trimmed(KINDS[kind](), ["mill"])
    unknown = {"[UNK]", "<unk>"}
    assert not unknown & set(fewer.encode("runners drink water").tokens)


def test_without_characters_it_is_unknown() -> None:
    made = wordpiece()
    fewer, old = trimmed(made, CORPUS, characters=False)
    assert len(old) < len(trimmed(made, CORPUS)[1])
    assert "[UNK]" in fewer.encode("hundred").tokens


def test_words_are_looked_up_or_unknown() -> None:
    fewer, _ = trimmed(KINDS["words"](), CORPUS)
    assert fewer.encode("the young river").tokens == ["the", "[UNK]", "river"]


def test_templates_and_padding_follow() -> None:
    fewer, old = trimmed(wordpiece(), CORPUS)
    pair = fewer.encode_batch([("the mill", "the river"), ("the river runs past", "the old mill")])
    assert [each.ids[0] for each in pair] == [fewer.token_to_id("[CLS]")] * 2
    assert len({len(each.ids) for each in pair}) == 1
    assert fewer.padding is not None
    assert fewer.padding["pad_id"] == fewer.token_to_id("[PAD]")
    assert old[fewer.token_to_id("[SEP]")] == 3


def _without(token: str) -> Callable[[dict], None]:
    def change(data: dict) -> None:
        data["added_tokens"] = [each for each in data["added_tokens"] if each["content"] != token]
        del data["model"]["vocab"][token]

    return change


def _elsewhere(data: dict) -> None:
    data["post_processor"]["special_tokens"]["[SEP]"]["ids"] = [77]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_without("[UNK]"), r"tokenizer.json: the vocabulary lacks its unknown token '\[UNK\]': mend the file"),
        (_without("[PAD]"), r"lacks '\[PAD\]' as number 0, which its post-processor or padding names"),
        (_elsewhere, r"lacks '\[SEP\]' as number 77"),
        (lambda data: data["model"].pop("vocab"), "expected a 'model' with a 'vocab'"),
        (lambda data: data["model"].update(type="Mystery"), "expected a model of WordPiece, .* found Mystery"),
    ],
)
def test_refuses_a_vocabulary_that_misses_something(change: Callable[[dict], None], why: str) -> None:
    data = json.loads(wordpiece().to_str())
    change(data)
    with pytest.raises(ModelError, match=why):
        Tokens.parse(json.dumps(data), "tokenizer.json")


def test_refuses_another_file() -> None:
    with pytest.raises(ModelError, match="README is no tokenizers file"):
        Tokens.parse("# hello", "README")


def test_byte_tokens_stay_where_characters_fall_back_to_them() -> None:
    vocab = {"<unk>": 0, **{f"<0x{byte:02X}>": byte + 1 for byte in range(256)}, "a": 257, "b": 258, "ab": 259}
    model = {"type": "BPE", "unk_token": "<unk>", "byte_fallback": True, "vocab": vocab, "merges": [["a", "b"]]}
    needed = Tokens.parse(json.dumps({"model": model}), "tokenizer.json").needed(characters=False)
    assert needed == set(range(257))


def test_pieces_of_what_stays_stay() -> None:
    vocab = {token: number for number, token in enumerate(["a", "b", "c", "d", "ab", "abc", "cd", "bc"])}
    model = {"type": "BPE", "vocab": vocab, "merges": ["a b", "b c", "ab c", "c d"]}
    tokens = Tokens.parse(json.dumps({"model": model}), "tokenizer.json")
    assert tokens.closed([5]) == {0, 1, 2, 4, 5}
    kept = json.loads(tokens.trimmed(np.array([0, 1, 2, 4, 5]), 8))["model"]
    assert kept["merges"] == ["a b", "ab c"]
