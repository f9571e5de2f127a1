"""The example models load, compute what they should, and refuse what they cannot read."""

from __future__ import annotations

import sys
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from tersor.examples import babyllama, data, g2p, minilm, silero, stdlib_text
from tersor.examples.source import torch_run

WORDS = ("hello", "compiler", "photograph", "through", "speech", "cat", "neural")


def onnxruntime_run(path: Path) -> data.Run:
    """A model in plain ONNX Runtime, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, dict(feeds)), strict=True))


# data


def test_data_folder_is_the_one_the_environment_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "words.txt").write_text("a")
    monkeypatch.setenv("TERSOR_DATA", str(tmp_path))
    assert data.data_file("words.txt").read_text() == "a"
    with pytest.raises(FileNotFoundError, match=r"other\.txt: not in the data folder"):
        data.data_file("other.txt")


def test_a_missing_data_folder_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERSOR_DATA", str(tmp_path / "nowhere"))
    assert data.data_dir() is None
    with pytest.raises(FileNotFoundError, match="set TERSOR_DATA"):
        data.data_file("words.txt")


# MiniLM


@pytest.fixture(scope="module")
def minilm_torch() -> data.Run:
    return torch_run(minilm.module())


def test_minilm_feeds_are_padded_to_the_longest_text_of_the_batch() -> None:
    short, long = minilm.batches(["Hello world.", "Hello.", "word " * 600], batch_size=2)
    assert short["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert long["input_ids"].shape == (1, minilm.MAX_TOKENS)
    assert {array.dtype for array in short.values()} == {np.dtype(np.int64)}


def test_minilm_pooling_leaves_padding_out() -> None:
    feeds = {"attention_mask": np.array([[1, 1, 0]])}
    hidden = np.array([[[3.0, 0.0], [3.0, 8.0], [500.0, 1.0]]])
    assert minilm.embed(lambda _: {"any": hidden}, feeds) == pytest.approx(np.array([[0.6, 0.8]]))


def test_minilm_puts_like_by_like(minilm_torch: data.Run) -> None:
    texts = [
        "The cat was sitting on the mat.",
        "Interest rates rose again in the last quarter of the year.",
        "A cat sat.",
    ]
    rows = minilm.encode(minilm_torch, texts, batch_size=2)
    alike = rows @ rows.T
    assert np.diag(alike) == pytest.approx(np.ones(3), abs=1e-6)
    assert alike[0, 2] > 0.7
    assert alike[0, 1] < 0.2


@pytest.mark.parametrize("opset", [18, 23])
def test_minilm_export_computes_what_torch_does(
    opset: int, minilm_onnx: Callable[[int], Path], minilm_torch: data.Run
) -> None:
    (feeds,) = minilm.batches(stdlib_text.sentences(4), batch_size=4)
    expected = minilm_torch(feeds)["last_hidden_state"]
    found = onnxruntime_run(minilm_onnx(opset))(feeds)["last_hidden_state"]
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


# the standard library's docstrings


def test_sentences_are_distinct_and_a_longer_list_begins_with_a_shorter_one() -> None:
    long = stdlib_text.sentences(120)
    assert len(set(long)) == 120
    assert stdlib_text.sentences(50) == long[:50]
    assert stdlib_text.sentences(50, seed=1) != long[:50]
    assert all(4 <= len(stdlib_text.WORD.findall(sentence)) <= 60 for sentence in long)


def test_reading_docstrings_imports_nothing() -> None:
    before = set(sys.modules)
    stdlib_text.sentences(40, seed=2)
    assert set(sys.modules) == before


def test_docstrings_come_from_public_names_and_prose_only(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text(
        '"""What it does. How it does it.\n\n    >>> indented()\n\n- a list\n"""\n'
        'raise RuntimeError("imported")\n'
        'class Public:\n    """A public class."""\n    def _hidden(self):\n        """A hidden method."""\n'
    )
    found = [sentence for text in stdlib_text.docstrings(source) for sentence in stdlib_text.split(text)]
    assert found == ["What it does.", "How it does it.", "A public class."]


def test_private_modules_and_tests_are_not_read() -> None:
    names = {part for path in stdlib_text.source_files() for part in path.parts[-2:]}
    assert "argparse.py" in names
    assert not names & {"_pydecimal.py", "site-packages", "test", "__future__.py"}


# BabyLlama


def test_babyllama_predicts_its_stories(data_dir: Path) -> None:
    model = torch_run(babyllama.module())
    assert babyllama.nats_per_token(model, babyllama.stories()) == pytest.approx(0.628, abs=0.001)


def test_babyllama_tokens_read_back_as_the_text(data_dir: Path) -> None:
    characters = babyllama.Characters()
    tokens = characters.encode("Once  upon\n\na time")
    assert tokens.count(babyllama.UNKNOWN) == 1
    assert characters.decode([babyllama.START, *tokens, babyllama.END]) == "Once upon\na time"


def test_babyllama_sees_no_later_token(data_dir: Path) -> None:
    model = torch_run(babyllama.module())
    tokens = np.arange(24, dtype=np.int64).reshape(1, 24)
    whole, start = model({"tokens": tokens})["logits"], model({"tokens": tokens[:, :9]})["logits"]
    assert whole[:, :9] == pytest.approx(start, abs=1e-4)


def test_babyllama_refuses_a_checkpoint_of_the_wrong_length(tmp_path: Path) -> None:
    path = tmp_path / "cut.bin"
    config = np.array([8, 16, 1, 2, 1, 10, 4], dtype="<i4")
    path.write_bytes(config.tobytes() + np.zeros(50, dtype="<f4").tobytes())
    with pytest.raises(ValueError, match=r"cut\.bin: Config\(dim=8.*the file has 50"):
        babyllama.module(path)


# g2p


@pytest.fixture(scope="module")
def g2p_torch(data_dir: Path) -> tuple[data.Run, data.Run]:
    return torch_run(g2p.encoder()), torch_run(g2p.decoder())


def test_g2p_says_known_words(g2p_torch: tuple[data.Run, data.Run]) -> None:
    spoken = [" ".join(phonemes) for phonemes in g2p.pronounce(*g2p_torch, WORDS)]
    assert spoken[0] == "HH EH1 L OW0"
    assert spoken[3:6] == ["TH R UW1", "S P IY1 CH", "K AE1 T"]


def test_g2p_says_a_word_alone_as_among_others(g2p_torch: tuple[data.Run, data.Run]) -> None:
    together = g2p.pronounce(*g2p_torch, WORDS)
    assert together == [g2p.pronounce(*g2p_torch, [word])[0] for word in WORDS]


def test_g2p_encoder_is_the_formula_of_its_authors(data_dir: Path, g2p_torch: tuple[data.Run, data.Run]) -> None:
    """r, z = sigmoid(W x + U h), n = tanh(W x + r U h), h' = (1 - z) n + z h, in float64."""
    with np.load(data_dir / "models/g2p_en/checkpoint20.npz") as arrays:
        embedding, w, u, b, c = (
            arrays[f"enc_{name}"].astype(np.float64) for name in ("emb", "w_ih", "w_hh", "b_ih", "b_hh")
        )
    spelled = g2p.graphemes(["photograph"])
    hidden = np.zeros(g2p.HIDDEN)
    for letter in spelled[0]:
        from_input, from_state = np.split(w @ embedding[letter] + b, 3), np.split(u @ hidden + c, 3)
        reset, update = (1 / (1 + np.exp(-(from_input[gate] + from_state[gate]))) for gate in (0, 1))
        new = np.tanh(from_input[2] + reset * from_state[2])
        hidden = (1 - update) * new + update * hidden
    assert g2p_torch[0]({"graphemes": spelled})["hidden"][0, 0] == pytest.approx(hidden, abs=1e-5)


# silero


def test_chunks_carry_the_samples_before_them() -> None:
    pieces = silero.chunks(np.arange(1, 1025, dtype=np.float32))
    assert pieces.shape == (2, 576)
    assert not pieces[0, :64].any()
    assert pieces[1, :65].tolist() == list(range(449, 514))
    assert silero.chunks(np.ones(700, dtype=np.float32)).sum() == 700 + 64


def test_audio_of_another_rate_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "phone.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8_000, 0, "NONE", ""))
        file.writeframes(b"\0\0" * 80)
    with pytest.raises(ValueError, match=r"phone\.wav: expected 16 kHz, mono, 2 bytes a sample; found \(8000, 1, 2\)"):
        silero.read_wave(path)


def test_both_silero_graphs_hear_the_same_speech(data_dir: Path) -> None:
    audio = silero.sample_audio()[: 20 * silero.RATE]
    heard = silero.probabilities(onnxruntime_run(silero.model_path(silero.OPENVINO)), audio)
    again = silero.probabilities(onnxruntime_run(silero.model_path(silero.OPSET_15)), audio, with_rate=True)
    assert heard.shape == (625,)
    assert heard.min() < 0.05
    assert heard.max() > 0.99
    assert again == pytest.approx(heard, abs=1e-5)


def test_silero_hears_nobody_in_silence(data_dir: Path) -> None:
    run = onnxruntime_run(silero.model_path(silero.OPENVINO))
    assert silero.probabilities(run, np.zeros(8_000, dtype=np.float32)).max() < 0.5


# what a compile is given


@pytest.mark.parametrize(
    ("give", "output_shapes"),
    [
        (minilm.source, {"last_hidden_state": (2, 16, 384)}),
        (babyllama.source, {"logits": (2, 32, 105)}),
        (g2p.encoder_source, {"hidden": (1, 2, 256)}),
        (g2p.decoder_source, {"logits": (2, 74), "next_hidden": (1, 2, 256)}),
    ],
    ids=["minilm", "babyllama", "g2p-encoder", "g2p-decoder"],
)
def test_a_source_runs_on_its_example_inputs(
    give: Callable[[], minilm.Source], output_shapes: dict[str, tuple[int, ...]], data_dir: Path
) -> None:
    module, args, dynamic = give()
    with torch.inference_mode():
        made = module(*args)
    assert {name: tuple(array.shape) for name, array in made.items()} == output_shapes
    assert len(dynamic) == len(args)
    assert not module.training
