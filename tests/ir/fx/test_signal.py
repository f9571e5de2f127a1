from __future__ import annotations

import numpy as np
import pytest
import torch
from tersor.ir.errors import ModelError
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.fx.ops.signal import dft, stft
from tersor.ir.text import graph

RNG = np.random.default_rng(0)
REAL = RNG.standard_normal((2, 6, 4, 1)).astype(np.float32)
COMPLEX = RNG.standard_normal((2, 6, 4, 2)).astype(np.float32)


def run(line: str, opset: int = 20, **feeds: np.ndarray) -> np.ndarray:
    names = {np.dtype("float32"): "float", np.dtype("float16"): "float16", np.dtype("float64"): "double"}
    inputs = {name: f"{names[x.dtype]}{list(x.shape)}" for name, x in feeds.items()}
    return Interpreter(to_fx(graph(line, inputs=inputs, opset=opset))).run(feeds)["y"]


def pairs(x: np.ndarray) -> np.ndarray:
    return np.stack([x.real, x.imag], -1)


def complexes(x: np.ndarray) -> np.ndarray:
    return x[..., 0] + 1j * x[..., 1]


@pytest.mark.parametrize("length", [None, 3, 6, 9])
@pytest.mark.parametrize("axis", [1, 2, -3])
def test_the_transform_cuts_or_pads(length: int | None, axis: int) -> None:
    size = "_" if length is None else str(length)
    found = run(f"y = DFT(x, {size}, {axis})", x=COMPLEX)
    place = axis if axis > 0 else axis + 4
    np.testing.assert_allclose(found, pairs(np.fft.fft(complexes(COMPLEX), length, place)), atol=1e-5)


def test_the_default_axis_changed_in_opset_20() -> None:
    np.testing.assert_allclose(run("y = DFT(x)", 17, x=REAL), pairs(np.fft.fft(REAL[..., 0], axis=1)), atol=1e-5)
    np.testing.assert_allclose(run("y = DFT(x)", 20, x=REAL), pairs(np.fft.fft(REAL[..., 0], axis=2)), atol=1e-5)


@pytest.mark.parametrize("length", [None, 5, 10])
def test_half_a_spectrum_and_back(length: int | None) -> None:
    size = "_" if length is None else str(length)
    half = run(f"y = DFT{{onesided=1}}(x, {size}, 1)", x=REAL)
    np.testing.assert_allclose(half, pairs(np.fft.rfft(REAL[..., 0], length, 1)), atol=1e-5)
    back = run(f"y = DFT{{onesided=1, inverse=1}}(x, {length or 6}, 1)", x=half)
    whole = np.fft.irfft(complexes(half), length or 6, 1)[..., None]
    np.testing.assert_allclose(back, whole, atol=1e-5)
    assert run("y = DFT{onesided=1, inverse=1}(x, _, 1)", x=half).shape[1] == 2 * (half.shape[1] - 1)


def test_half_precision_is_computed_wider() -> None:
    found = run("y = DFT(x)", x=REAL.astype(np.float16))
    assert found.dtype == np.float16
    np.testing.assert_allclose(found.astype(np.float32), run("y = DFT(x)", x=REAL), atol=1e-2)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("y = DFT(x, _, 3)", "axis 3 is the last"),
        ("y = DFT{onesided=1}(x)", "onesided is for real signals"),
        ("y = STFT(s, 2, w)", r"^STFT at .* cannot run"),
        ("y = STFT{onesided=0}(s, 2, w, 4)", "the window has 3 elements and a frame 4"),
    ],
)
def test_what_cannot_be_transformed(line: str, what: str) -> None:
    feeds = {"x": COMPLEX} if "x" in line else {"s": COMPLEX[:, :, 0], "w": np.ones(3, np.float32)}
    with pytest.raises(ModelError, match=what):
        run(line, **feeds)


@pytest.mark.parametrize("window", [None, np.hanning(5).astype(np.float32)])
@pytest.mark.parametrize("onesided", [0, 1])
def test_short_time_transform(window: np.ndarray | None, onesided: int) -> None:
    x = RNG.standard_normal((2, 17, 1)).astype(np.float32)
    feeds = {"x": x} if window is None else {"x": x, "w": window}
    middle = "_, 5" if window is None else "w"
    found = run(f"y = STFT{{onesided={onesided}}}(x, 3, {middle})", 17, **feeds)
    frames = np.stack([x[:, i : i + 5, 0] for i in range(0, 13, 3)], 1) * (1 if window is None else window)
    transform = np.fft.rfft if onesided else np.fft.fft
    np.testing.assert_allclose(found, pairs(transform(frames)), atol=1e-5)


def test_short_time_transform_of_complex_signals_and_of_one_frame() -> None:
    x = COMPLEX[:, :, 0]
    found = run("y = STFT{onesided=0}(x, 1)", 17, x=x)
    np.testing.assert_allclose(found, pairs(np.fft.fft(complexes(x)))[:, None], atol=1e-5)


def test_a_window_as_long_as_a_shape_says() -> None:
    model = graph("s = Shape{start=1, end=2}(x)", "n = Squeeze(s)", "y = HannWindow(n)", inputs={"x": "float[2, n]"})
    assert Interpreter(to_fx(model)).run({"x": np.zeros((2, 5), np.float32)})["y"].shape == (5,)


@pytest.mark.parametrize("name", ["HannWindow", "HammingWindow", "BlackmanWindow"])
@pytest.mark.parametrize("dtype", [1, 11, 10])
def test_windows_in_other_types(name: str, dtype: int) -> None:
    # ONNX's Hamming window has 25/46 where numpy's has 0.54
    hamming = 25 / 46 - 21 / 46 * np.cos(2 * np.pi * np.arange(9) / 8)
    own = {"HannWindow": np.hanning(9), "HammingWindow": hamming, "BlackmanWindow": np.blackman(9)}[name]
    model = graph(f"y = {name}{{periodic=0, output_datatype={dtype}}}(9)", "z = Identity(x)", inputs={"x": "float[1]"})
    found = Interpreter(to_fx(model)).run({"x": np.zeros(1, np.float32)})["y"]
    assert found.dtype == {1: np.float32, 11: np.float64, 10: np.float16}[dtype]
    np.testing.assert_allclose(found, own, atol=5e-4 if dtype == 10 else 1e-7)


def test_mel_triangles_peak_at_one() -> None:
    model = graph("y = MelWeightMatrix(6, 64, 8000, 100.0, 3500.0)", "z = Identity(x)", inputs={"x": "float[1]"})
    found = Interpreter(to_fx(model)).run({"x": np.zeros(1, np.float32)})["y"]
    assert found.shape == (33, 6)
    np.testing.assert_array_equal(found.max(0), 1)
    assert (np.diff(found.argmax(0)) > 0).all()


def test_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    window = torch.rand(4, dtype=torch.float64, generator=generator, requires_grad=True)
    for inverse, onesided in ((0, 0), (1, 0), (1, 1)):
        assert torch.autograd.gradcheck(lambda x, i=inverse, o=onesided: dft(x, None, 1, inverse=i, onesided=o), x)
    assert torch.autograd.gradcheck(lambda x: dft(x, 7, 1, onesided=1), x[..., :1])
    assert torch.autograd.gradcheck(lambda x, w: stft(x, 1, w, onesided=0), (x, window))


def test_export_keeps_batch_and_length_open() -> None:
    model = graph("s = STFT(x, 2, w)", "d = DFT(x)", inputs={"x": "float[b, n, 1]", "w": "float[4]"}, opset=20)
    # torch's own strides of a transform tell one frame from more
    sizes = ({0: torch.export.Dim("b", min=1), 1: torch.export.Dim("n", min=6)}, None)
    program = torch.export.export(to_fx(model), (torch.randn(3, 12, 1), torch.ones(4)), dynamic_shapes=sizes)
    s, d = program.module()(torch.randn(5, 20, 1), torch.ones(4))
    assert s.shape == (5, 9, 3, 2)
    assert d.shape == (5, 20, 2)
