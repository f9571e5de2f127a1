"""silero-vad: is somebody speaking, for each 32 ms of 16 kHz audio.

A short-time Fourier transform, four convolutions and an LSTM cell, run chunk by chunk with the state handed on.
Two graphs of the data folder's `models/silero_vad` (MIT, snakers4/silero-vad):

    OPENVINO   opset 16, an LSTM and no control flow   input [1, 576], state [2, 1, 128]
    OPSET_15   opset 15, the same with `If` around it  input [batch, sequence], state [2, batch, 128], sr []

Neither graph keeps audio from one chunk to the next: both want the last 64 samples before the 512 new ones, and
pad 64 zeros behind them, which makes four windows of 256 at a stride of 128.
"""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

from .data import Run, data_file

RATE = 16_000
CHUNK = 512
CONTEXT = 64
STATE_SHAPE = (2, 1, 128)
OPENVINO = "silero_vad_openvino_16k.onnx"
OPSET_15 = "silero_vad_16k_op15.onnx"


def model_path(name: str) -> Path:
    """Where one of the two graphs lies."""
    return data_file(f"models/silero_vad/{name}")


def sample_audio() -> np.ndarray:
    """The minute of speech that comes with the model: float32 [samples] in -1..1."""
    return read_wave(data_file("models/silero_vad/test.wav"))


def read_wave(path: Path) -> np.ndarray:
    """16-bit mono PCM at 16 kHz as float32 [samples] in -1..1. Raises ValueError for any other kind."""
    with wave.open(str(path), "rb") as file:
        kind = (file.getframerate(), file.getnchannels(), file.getsampwidth())
        if kind != (RATE, 1, 2):
            raise ValueError(f"{path.name}: expected 16 kHz, mono, 2 bytes a sample; found {kind}")
        frames = file.readframes(file.getnframes())
    return np.frombuffer(frames, dtype="<i2").astype(np.float32) / 32768


def chunks(audio: np.ndarray) -> np.ndarray:
    """Audio [samples] cut into [chunks, 576], each with the 64 samples before it; zeros at both ends."""
    count = -(-len(audio) // CHUNK)
    padded = np.pad(audio, (CONTEXT, count * CHUNK - len(audio)))
    return np.lib.stride_tricks.sliding_window_view(padded, CONTEXT + CHUNK)[::CHUNK]


def probabilities(run: Run, audio: np.ndarray, *, with_rate: bool = False) -> np.ndarray:
    """The probability of speech in each 32 ms of `audio` [samples], float32 [chunks].

    `with_rate` feeds the sample rate too: `OPSET_15` asks for it, `OPENVINO` has no such input.
    """
    rate = {"sr": np.array(RATE, dtype=np.int64)} if with_rate else {}
    state = np.zeros(STATE_SHAPE, dtype=np.float32)
    heard: list[float] = []
    for chunk in chunks(audio):
        made = run({"input": np.ascontiguousarray(chunk[None]), "state": state, **rate})
        state = made["stateN"]
        heard.append(float(made["output"].item()))
    return np.array(heard, dtype=np.float32)
