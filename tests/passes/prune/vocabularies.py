"""Small tokenizers of every kind, trained on a few words, and a model over as many tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
from tersor.ir.text import graph
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = [
    "the river runs past the old mill and the miller runs after the geese",
    "a goose on the river is older than the mill, said the oldest miller",
    "running water turns the wheel of the mill; runners drink the water",
    "old geese, young geese, a hundred geese: nobody counts the geese twice",
]
#: Of which much is trimmed.
CORPUS = TEXTS[:1]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def wordpiece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=120, special_tokens=SPECIAL))
    ends = [(each, made.token_to_id(each)) for each in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    made.enable_padding(pad_id=0, pad_token="[PAD]")
    return made


def bpe() -> Tokenizer:
    """Merges of words with an end of word, unknown characters being unknown."""
    made = Tokenizer(models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=110, special_tokens=SPECIAL, end_of_word_suffix="</w>")
    made.train_from_iterator(TEXTS, trainer)
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return made


def bytewise() -> Tokenizer:
    """Merges of bytes, as GPT-2 has them: nothing is unknown; special tokens come last."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet))
    made.add_special_tokens(["<|end|>"])
    made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False)])
    return made


def unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=90, special_tokens=["<pad>", "<unk>", "</s>"], unk_token="<unk>")
    made.train_from_iterator(TEXTS * 3, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 2)]
    )
    return made


def words() -> Tokenizer:
    made = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.train_from_iterator(TEXTS, trainers.WordLevelTrainer(special_tokens=SPECIAL))
    return made


KINDS = {made.__name__: made for made in (wordpiece, bpe, bytewise, unigram, words)}


def saved(made: Tokenizer, folder: Path) -> Path:
    path = folder / "source.json"
    made.save(str(path))
    return path


def corpus(folder: Path) -> Path:
    path = folder / "corpus.txt"
    path.write_text("\n".join(CORPUS) + "\n")
    return path


def encoder(rows: int, width: int = 8) -> ir.Model:
    """Tokens and token types to features, one layer behind."""
    rng = np.random.default_rng(rows)
    weights = {
        "table": rng.standard_normal((rows, width)), "types": rng.standard_normal((2, width)),
        "w": rng.standard_normal((width, width)),
    }  # fmt: skip
    ids = "int64[batch, sequence]"
    return graph(
        "e = Gather(table, input_ids)", "t = Gather(types, token_type_ids)", "a = Add(e, t)", "h = Tanh(a)",
        "y = MatMul(h, w)", inputs={"input_ids": ids, "token_type_ids": ids},
        **{name: array.astype(np.float32) for name, array in weights.items()},
    )  # fmt: skip


def decoder(rows: int, width: int = 8) -> ir.Model:
    """Tokens to logits, tied."""
    rng = np.random.default_rng(rows)
    return graph(
        "e = Gather(table, tokens)", "h = Tanh(e)", "u = Transpose{perm=[1, 0]}(table)", "logits = MatMul(h, u)",
        inputs={"tokens": "int64[batch, sequence]"}, table=rng.standard_normal((rows, width)).astype(np.float32),
    )  # fmt: skip
