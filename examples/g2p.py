"""g2p: English spelling to phonemes, a GRU encoder and a GRU decoder, hidden 256.

Weights: `models/g2p_en/checkpoint20.npz` of the data folder (Apache-2.0, Kyubyong/g2p). Two graphs: the encoder
reads a word, the decoder makes one phoneme a call; the greedy loop around them is Python.

    tersor compile examples.g2p:encoder_source -o encoder.artifact
    tersor compile examples.g2p:decoder_source -o decoder.artifact
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, takewhile

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from .data import Run, data_file
from .source import Source

HIDDEN = 256
MAX_PHONEMES = 20
GRAPHEMES = ("<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz")
VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
CONSONANTS = "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH"
PHONEMES = (
    *("<pad>", "<unk>", "<s>", "</s>"),
    *sorted([*(vowel + stress for vowel in VOWELS for stress in "012"), *CONSONANTS.split(), "UW"]),
)
"""ARPAbet; the digit is the stress."""

START, END = PHONEMES.index("<s>"), PHONEMES.index("</s>")


class Encoder(nn.Module):
    """graphemes [batch, letters] int64 -> {"hidden": [1, batch, 256]}. Words in a batch are of one length."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(GRAPHEMES), HIDDEN)
        self.gru = nn.GRU(HIDDEN, HIDDEN, batch_first=True)

    def forward(self, graphemes: Tensor) -> dict[str, Tensor]:
        return {"hidden": self.gru(self.embedding(graphemes))[1]}


class Decoder(nn.Module):
    """phoneme [batch, 1] int64, hidden [1, batch, 256] -> logits [batch, 74], next_hidden [1, batch, 256], by name."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(PHONEMES), HIDDEN)
        self.gru = nn.GRU(HIDDEN, HIDDEN, batch_first=True)
        self.output = nn.Linear(HIDDEN, len(PHONEMES))

    def forward(self, phoneme: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        states, last = self.gru(self.embedding(phoneme), hidden)
        return {"logits": self.output(states.squeeze(1)), "next_hidden": last}


def encoder() -> Encoder:
    """The trained encoder in evaluation mode."""
    part = Encoder()
    fill(part, gru_names("enc"))
    return part.eval()


def decoder() -> Decoder:
    """One step of the trained decoder in evaluation mode."""
    part = Decoder()
    fill(part, gru_names("dec") | {"fc_w": "output.weight", "fc_b": "output.bias"})
    return part.eval()


def gru_names(prefix: str) -> dict[str, str]:
    """Checkpoint name to parameter name; both hold the gates in the order reset, update, new."""
    return {
        f"{prefix}_emb": "embedding.weight",
        f"{prefix}_w_ih": "gru.weight_ih_l0",
        f"{prefix}_w_hh": "gru.weight_hh_l0",
        f"{prefix}_b_ih": "gru.bias_ih_l0",
        f"{prefix}_b_hh": "gru.bias_hh_l0",
    }


def fill(part: nn.Module, names: dict[str, str]) -> None:
    """Load the checkpoint's arrays into the parameters that `names` pairs them with."""
    with np.load(data_file("models/g2p_en/checkpoint20.npz"), allow_pickle=False) as arrays:
        part.load_state_dict({name: torch.from_numpy(arrays[key]) for key, name in names.items()})


def encoder_source() -> Source:
    """The encoder with any batch and any number of letters."""
    graphemes = torch.arange(2 * 6).reshape(2, 6)
    return Source(encoder(), (graphemes,), {"graphemes": {0: Dim("batch"), 1: Dim("letters")}})


def decoder_source() -> Source:
    """The decoder step with any batch."""
    batch = Dim("batch")
    phoneme, hidden = torch.full((2, 1), START), torch.zeros(1, 2, HIDDEN)
    return Source(decoder(), (phoneme, hidden), {"phoneme": {0: batch}, "hidden": {1: batch}})


def graphemes(words: Sequence[str]) -> np.ndarray:
    """Words of one length to int64 [words, letters + 1], the end mark last."""
    unknown, end = GRAPHEMES.index("<unk>"), GRAPHEMES.index("</s>")
    letters = {letter: number for number, letter in enumerate(GRAPHEMES)}
    rows = [[*(letters.get(letter, unknown) for letter in word.lower()), end] for word in words]
    return np.array(rows, dtype=np.int64)


def pronounce(encode: Run, decode: Run, words: Sequence[str]) -> list[list[str]]:
    """The phonemes of each word, greedily, at most 20; words of one length are run as one batch."""
    found: list[list[str]] = [[] for _ in words]
    order = sorted(range(len(words)), key=lambda index: len(words[index]))
    for _, group in groupby(order, key=lambda index: len(words[index])):
        indices = list(group)
        spoken = greedy(encode, decode, graphemes([words[index] for index in indices]))
        for index, row in zip(indices, spoken, strict=True):
            found[index] = [PHONEMES[number] for number in takewhile(lambda number: number != END, row)]
    return found


def greedy(encode: Run, decode: Run, spelled: np.ndarray) -> np.ndarray:
    """Graphemes [batch, letters] to the likeliest phoneme of each step, int64 [batch, 20]; past the end mark, noise."""
    (hidden,) = encode({"graphemes": spelled}).values()
    phoneme = np.full((len(spelled), 1), START, dtype=np.int64)
    steps: list[np.ndarray] = []
    for _ in range(MAX_PHONEMES):
        logits, hidden = decode({"phoneme": phoneme, "hidden": hidden}).values()
        phoneme = logits.argmax(axis=-1, keepdims=True)
        steps.append(phoneme)
    return np.concatenate(steps, axis=1)
