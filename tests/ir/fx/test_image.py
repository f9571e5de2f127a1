"""ImageDecoder on files made here; ONNX's own cases are among the conformance tests."""

from __future__ import annotations

import io
import struct
import sys
import zlib

import numpy as np
import onnx
import onnx.reference
import onnx_ir
import pytest
from PIL import Image
from tersor.ir.errors import ModelError, UnsupportedError
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.text import graph

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (5, 7, 3), np.uint8)
EXACT = ("BMP", "PNG", "TIFF", "PPM")
LOSSY = ("JPEG", "JPEG2000", "WEBP")


def file(image: Image.Image, kind: str, **options: object) -> np.ndarray:
    with io.BytesIO() as stream:
        image.save(stream, kind, **options)
        return np.frombuffer(stream.getvalue(), np.uint8)


def decoded(data: np.ndarray, pixel_format: str = "RGB") -> np.ndarray:
    model = graph(f"y = ImageDecoder{{pixel_format='{pixel_format}'}}(x)", inputs={"x": "uint8[n]"}, opset=20)
    return Interpreter(to_fx(model)).run({"x": data})["y"]


@pytest.mark.parametrize("kind", [*EXACT, *LOSSY])
@pytest.mark.parametrize("pixel_format", ["RGB", "BGR", "Grayscale"])
def test_formats(kind: str, pixel_format: str) -> None:
    data = file(Image.fromarray(PIXELS), kind)
    found = decoded(data, pixel_format)
    model = graph(f"y = ImageDecoder{{pixel_format='{pixel_format}'}}(x)", inputs={"x": "uint8[n]"}, opset=20)
    proto = onnx_ir.serde.serialize_model(model)
    (wanted,) = onnx.reference.ReferenceEvaluator(proto).run(None, {"x": data})
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, wanted)
    if kind in EXACT and pixel_format != "Grayscale":
        np.testing.assert_array_equal(found, PIXELS if pixel_format == "RGB" else PIXELS[:, :, ::-1])


def test_gray_files_have_three_equal_channels_in_color() -> None:
    found = decoded(file(Image.fromarray(PIXELS[:, :, 0]), "PNG"))
    np.testing.assert_array_equal(found, np.repeat(PIXELS[:, :, :1], 3, 2))


def test_transparency_is_left_out() -> None:
    clear = np.concatenate([PIXELS, PIXELS[:, :, :1]], 2)
    np.testing.assert_array_equal(decoded(file(Image.fromarray(clear), "PNG")), PIXELS)


@pytest.mark.parametrize("mode", ["P", "1", "CMYK"])
def test_other_colors(mode: str) -> None:
    image = Image.fromarray(PIXELS).convert(mode)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    np.testing.assert_array_equal(decoded(file(image, kind)), np.array(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_keep_the_upper_eight(kind: str) -> None:
    deep = RNG.integers(0, 1 << 16, (4, 3)).astype(np.uint16)
    found = decoded(file(Image.fromarray(deep), kind), "Grayscale")
    np.testing.assert_array_equal(found[:, :, 0], deep >> 8)


def test_plain_text_bitmap() -> None:
    data = np.frombuffer(b"P1\n# none\n3 2\n1 0 1\n0 1 0\n", np.uint8)
    np.testing.assert_array_equal(decoded(data, "Grayscale")[:, :, 0], [[0, 255, 0], [255, 0, 255]])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no image at all",
        b"GIF89a\x01\x00\x01\x00\x00\x00\x00;",
        file(Image.fromarray(PIXELS), "PNG").tobytes()[:40],
        file(Image.fromarray(PIXELS), "JPEG").tobytes()[:200],
        file(Image.fromarray(PIXELS), "JPEG2000").tobytes()[:60],
        b"P6\n-3 2\n255\nabcdef",
        b"Pf\n2 2\n-1.0\n" + b"\x00" * 16,
        file(Image.fromarray(np.array([[1 << 20]], np.int32)), "TIFF").tobytes(),
    ],
    ids=["empty", "text", "gif", "cut png", "cut jpeg", "cut jpeg2000", "negative", "floats", "32 bits"],
)
def test_bad_bytes_are_a_model_error(data: bytes) -> None:
    with pytest.raises(ModelError, match="cannot be decoded"):
        decoded(np.frombuffer(data, np.uint8))


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_bombs_are_refused_before_they_are_decoded(side: int) -> None:
    """A header that promises more than is allowed, with next to nothing after it."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(ModelError, match="exceeds limit"):
        decoded(np.frombuffer(data, np.uint8))


@pytest.mark.parametrize("shape", [(1, 5), ()])
def test_a_file_is_a_row_of_bytes(shape: tuple[int, ...]) -> None:
    model = graph("y = ImageDecoder(x)", inputs={"x": "uint8"}, opset=20)
    with pytest.raises(ModelError, match="rank"):
        Interpreter(to_fx(model)).run({"x": np.zeros(shape, np.uint8)})


def test_unknown_pixel_format() -> None:
    with pytest.raises(ModelError, match="Grayscale"):
        decoded(file(Image.fromarray(PIXELS), "PNG"), "HSV")


def test_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'tersor\[image\]'"):
        decoded(np.zeros(3, np.uint8))
