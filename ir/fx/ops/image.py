"""Image files as pixels: ImageDecoder, by Pillow, which the extra `image` brings."""

from __future__ import annotations

import io
import warnings

import numpy as np
import torch

from ...errors import UnsupportedError
from ..lowering import Table, standard

FILES = ("BMP", "JPEG", "JPEG2000", "TIFF", "PNG", "WEBP", "PPM")
"""The formats ONNX names, as Pillow does; PPM is the whole family of portable images."""
_MODES = {"RGB": "RGB", "BGR": "RGB", "Grayscale": "L"}


def image_decoder(encoded: torch.Tensor, *, pixel_format: str = "RGB") -> torch.Tensor:
    """An image file, uint8 [bytes] -> its pixels, uint8 [height, width, 3], or [height, width, 1] where Grayscale.

    Transparency is left out, 16 bits are cut to the upper 8, of several frames the first is read, and rotations that
    the file only notes are not made. Raises UnsupportedError without Pillow, and ValueError for bytes that are no whole
    image of these formats (ONNX would have an empty matrix), for float pixels, and for more pixels than
    `PIL.Image.MAX_IMAGE_PIXELS`, whatever the size of the file.
    """
    if pixel_format not in _MODES:
        raise ValueError(f"pixel_format is {pixel_format!r}, expected one of {', '.join(_MODES)}")
    if encoded.dtype is not torch.uint8 or encoded.dim() != 1:
        raise ValueError(f"an image file is uint8 [bytes], not {encoded.dtype} of rank {encoded.dim()}")
    pixels = _read(encoded.cpu().numpy().tobytes(), _MODES[pixel_format])
    if pixel_format == "BGR":
        pixels = pixels[:, :, ::-1]
    return torch.from_numpy(np.array(pixels)).to(encoded.device)


def _read(data: bytes, mode: str) -> np.ndarray:
    """Pixels [height, width, channels]; nothing is decoded before the header has said how many there are."""
    try:
        from PIL import Image
    except ImportError as error:
        raise UnsupportedError("ImageDecoder needs Pillow: pip install 'tersor[image]'") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FILES) as image:
                if image.mode.startswith("F"):
                    raise ValueError("its pixels are floats; expected integers of 1 to 16 bits")
                # modes I hold 16 bits, some in 32
                shown = Image.fromarray(_upper(np.asarray(image))) if image.mode.startswith("I") else image
                pixels = np.array(shown.convert(mode))
    except Exception as error:
        # the decoders raise whatever a broken file makes of their arithmetic
        raise ValueError(f"the {len(data)} bytes cannot be decoded as an image: {error}") from error
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _upper(values: np.ndarray) -> np.ndarray:
    """The upper 8 of 16 bits."""
    if values.size and (values.min() < 0 or values.max() >= 1 << 16):
        raise ValueError("its pixels have 32 bits; expected 1 to 16")
    return (values >> 8).astype(np.uint8)


IMAGE: Table = standard({"ImageDecoder": image_decoder}, since=20)
