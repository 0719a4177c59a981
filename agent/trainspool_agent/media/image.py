"""Pictures: pixels become a file of the format that the path's extension says.

Source: convert_to_pil_image and compress_image_size of mlflow/tracking/multimedia.py, MLflow 3.17; pixel for pixel.
"""

from __future__ import annotations

import io
import posixpath
from typing import Any

import numpy as np
from PIL import Image

from trainspool.spool.events import shown
from trainspool_agent.media.raw import array, shape_of
from trainspool_agent.store.limits import PIXELS_MAX

THUMBNAIL_PIXELS = 256
_BLOCK_ROWS_BYTES = 8 << 20  # of a picture that is scaled at once: the steps on the way are floats
_FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".gif": "GIF",
    ".tif": "TIFF", ".tiff": "TIFF",
}  # fmt: skip
# Pillow's mode → bits per pixel in a raw file of it, rows being whole bytes.
_BITS = {
    "1": 1, "L": 8, "P": 8, "LA": 16, "I;16": 16, "RGB": 24, "YCbCr": 24, "RGBA": 32, "CMYK": 32, "I": 32, "F": 32,
}  # fmt: skip


def image(path: str, about: dict[str, Any], content: bytes) -> bytes:
    return saved(picture(about, content), path, about)


def thumbnail(path: str, about: dict[str, Any], content: bytes) -> bytes:
    """The picture within 256×256, as MLflow's image grid shows it."""
    return saved(small(picture(about, content)), path, about)


def picture(about: dict[str, Any], content: bytes) -> Image.Image:
    """Return the picture that *content* is the pixels of.

    Raises:
        ValueError: it is not.
    """
    shape = shape_of(about)
    if len(shape) not in (2, 3) or 0 in shape or shape[0] * shape[1] > PIXELS_MAX:
        raise ValueError(f"no shape of a picture: {shown(list(shape))}")
    if about.get("mode") is not None:
        return _of_mode(about, shape, content)
    pixels = array(about, content)
    if pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4):
        raise ValueError(f"{pixels.shape[2]} channels")
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    return Image.fromarray(_bytes_of(pixels))


def _of_mode(about: dict[str, Any], shape: tuple[int, ...], content: bytes) -> Image.Image:
    mode = about["mode"]
    if not isinstance(mode, str) or mode not in _BITS:
        raise ValueError(f"no mode of a picture: {shown(mode)}")
    height, width = shape
    if (width * _BITS[mode] + 7) // 8 * height != len(content):
        raise ValueError(f"{width}×{height} pixels of {mode} have another size")
    made = Image.frombytes(mode, (width, height), content)
    if mode == "P":
        palette, colours = about["palette"]
        if palette not in ("RGB", "RGBA") or type(colours) is not bytes or len(colours) > 1024:
            raise ValueError("no palette")
        made.putpalette(colours, palette)
    return made


def _bytes_of(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return bool, integers in 0-255 or floats as bytes; floats beyond 0-1 are stretched between their extremes."""
    if pixels.dtype == np.uint8:
        return pixels
    low, high = pixels.min(), pixels.max()
    if pixels.dtype.kind in "iu":
        if low < 0 or high > 255:
            raise ValueError(f"integers from {low} to {high}")
        return pixels.astype(np.uint8)
    made = np.empty(pixels.shape, np.uint8)
    rows = max(1, _BLOCK_ROWS_BYTES // max(1, pixels[0].nbytes))
    with np.errstate(all="ignore"):  # NaN is some colour, as with MLflow
        for at in range(0, len(pixels), rows):
            block = pixels[at : at + rows]
            if low < 0 or high > 1:
                block = (block - low) / (high - low)
            made[at : at + rows] = (block * 255).astype(np.uint8)
    return made


def small(full: Image.Image) -> Image.Image:
    width, height = full.size
    if width > height:
        size = THUMBNAIL_PIXELS, max(1, int(height * (THUMBNAIL_PIXELS / width)))
    else:
        size = max(1, int(width * (THUMBNAIL_PIXELS / height))), THUMBNAIL_PIXELS
    return full.resize(size)


def saved(made: Image.Image, path: str, about: dict[str, Any]) -> bytes:
    """Return *made* as a file of *path*'s format."""
    extension = posixpath.splitext(path)[1].lower()
    if extension not in _FORMATS:
        raise ValueError(f"no format of a picture: {shown(extension)}")
    if about.get("transparency") is not None:
        made.info["transparency"] = _transparency(about["transparency"])
    if isinstance(about.get("icc_profile"), bytes):
        made.info["icc_profile"] = about["icc_profile"]
    file = io.BytesIO()
    try:
        made.save(file, _FORMATS[extension])
    except (OSError, SystemError, MemoryError) as error:  # as Pillow says that a format has no such pixels
        raise ValueError(str(error)) from error
    return file.getvalue()


def _transparency(value: Any) -> int | bytes | tuple[int, ...]:
    """Return which colour is seen through, or how much each colour of a palette is."""
    if type(value) is bytes and len(value) <= 256:
        return value
    levels = value if type(value) is list and len(value) == 3 else [value]
    if any(type(level) is not int or not 0 <= level <= 65535 for level in levels):
        raise ValueError(f"no transparency: {shown(value)}")
    return tuple(levels) if len(levels) == 3 else int(levels[0])
