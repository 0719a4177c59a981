"""Pictures as ``log_image`` takes them: checked in MLflow's terms, handed on as raw pixels; the agent encodes.

Source: mlflow/tracking/client.py and multimedia.py of MLflow 3.17.
"""

from __future__ import annotations

import os
import posixpath
import re
import time
from typing import Any, NamedTuple

from trainspool import arrays, staging, validation

KINDS = {"b": "bool", "i": "signed integer", "u": "unsigned integer", "f": "floating"}
PROFILE_BYTES_MAX = 16 << 10  # of colours; a larger one is left out
_KEY = re.compile(r"[a-zA-Z0-9_\-./ ]+\Z")
_ALL = frozenset(("1", "L", "LA", "P", "RGB", "RGBA"))
_PRINT = frozenset(("CMYK", "YCbCr"))
# What Pillow writes of each mode without changing it; WebP takes any, as RGB or RGBA.
_FORMATS = {
    ".png": ("PNG", _ALL | {"I;16"}),
    ".jpg": ("JPEG", frozenset(("1", "L", "RGB")) | _PRINT),
    ".jpeg": ("JPEG", frozenset(("1", "L", "RGB")) | _PRINT),
    ".webp": ("WEBP", _ALL),
    ".bmp": ("BMP", frozenset(("1", "L", "P", "RGB", "RGBA"))),
    ".gif": ("GIF", _ALL),
    ".tif": ("TIFF", _ALL | _PRINT | {"I", "I;16", "F"}),
    ".tiff": ("TIFF", _ALL | _PRINT | {"I", "I;16", "F"}),
}


class Picture(NamedTuple):
    """Raw pixels, and what the agent must know of them: the entries of a media event beside its form."""

    about: dict[str, Any]
    data: bytes | memoryview


class Place(NamedTuple):
    """Where a picture goes, and its small copy in the image grid if it has one."""

    path: str
    thumbnail: str | None


def place(artifact_file: str | None, key: str | None, step: Any, timestamp: Any) -> Place:
    """Return where MLflow's ``log_image`` puts a picture.

    Raises:
        TypeError: neither or both of *artifact_file* and *key*.
        ValueError: a key with characters that MLflow does not take.
    """
    if artifact_file is not None and any(one is not None for one in (key, step, timestamp)):
        raise TypeError(
            "The `artifact_file` parameter cannot be used in conjunction with `key`, `step`, or `timestamp` parameters."
            " Please ensure that `artifact_file` is specified alone, without any of these conflicting parameters."
        )
    if artifact_file is not None:
        return Place(staging.check_artifact_path(artifact_file), None)
    if key is None:
        raise TypeError(
            "Invalid arguments: Please specify exactly one of `artifact_file` or `key`. Use `key` to log dynamic image "
            "charts or `artifact_file` for saving static images. "
        )
    name = f"images/{keyed(key, step, timestamp)}"
    return Place(f"{name}.png", f"{name}+compressed.webp")


def keyed(key: str, step: Any, timestamp: Any) -> str:
    """Return the file name, without its extension, of something logged under *key* at *step*.

    Raises:
        ValueError: the key has other characters than MLflow takes for an image's, or too many.
    """
    if not isinstance(key, str) or not _KEY.match(key):
        raise ValueError(
            "The `key` parameter may only contain alphanumerics, underscores (_), dashes (-), periods (.), spaces ( ), "
            f"and slashes (/).The provided key `{key}` contains invalid characters."
        )
    number = validation.step_number(key, "media", step)
    ms = validation.time_ns_from_ms(key, "media", timestamp) // 1_000_000 if timestamp else time.time_ns() // 1_000_000
    name = f"{key.replace('/', '~')}+step+{number}+timestamp+{ms}+{random_uuid()}"
    if len(f"{name}+compressed.webp") > validation.KEY_COMPONENT_BYTES_MAX:
        raise ValueError(f"The `key` parameter is too long for a file's name: {key[:300]!r}")
    return name


def random_uuid() -> str:
    """Return a random UUID as text; the module for them takes longer to import than all of ours may."""
    text = os.urandom(16).hex()
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{'89ab'[int(text[16], 16) & 3]}{text[17:20]}-{text[20:]}"


def picture(image: Any, path: str) -> Picture:
    """Return the pixels of *image* as they are now, if a file of *path*'s extension can hold them.

    Raises:
        TypeError: it is nothing that holds pixels, or pixels are no numbers.
        ValueError: its shape, its range or the extension is none of a picture.
        OSError: the format has no such pixels, as Pillow says it.
    """
    if callable(getattr(image, "to_pil", None)):  # mlflow.Image
        image = image.to_pil()
    if arrays.is_from(image, "PIL", "Image"):
        found = _of_pil(image)
    else:
        array = arrays.array_of(image)
        if array is None:
            raise TypeError(
                f"Unsupported image object type: {type(image)}. `image` must be one of numpy.ndarray, PIL.Image.Image, "
                "and mlflow.Image."
            )
        found = _of_array(array)
    _check_format(posixpath.splitext(path)[1].lower(), found)
    return found


def _of_array(array: Any) -> Picture:
    kind, shape = array.dtype.kind, array.shape
    if kind not in KINDS:
        raise TypeError(f"Invalid array data type: '{array.dtype}'. Must be one of {list(KINDS.values())}")
    if array.ndim not in (2, 3):
        raise ValueError(f"`image` must be a 2D or 3D array but got image shape: {shape}")
    if array.ndim == 3 and shape[2] not in (1, 3, 4):
        raise ValueError(f"Invalid channel length: {shape[2]}. Must be one of [1, 3, 4]")
    if 0 in shape:
        raise ValueError(f"`image` must have pixels but got image shape: {shape}")
    if (kind in "iu" and array.dtype.itemsize > 1) or kind == "i":
        low, high = array.min(), array.max()
        if low < 0 or high > 255:
            raise ValueError(
                f"Integer pixel values out of acceptable range [0, 255]. Found minimum value {low} and maximum value "
                f"{high}. Ensure all pixel values are within the specified range."
            )
    dtype, full, data = arrays.raw(array, "an image")
    return Picture({"dtype": dtype, "shape": list(full), "mode": None}, data)


def _of_pil(image: Any) -> Picture:
    width, height = image.size
    about: dict[str, Any] = {"dtype": "|u1", "shape": [height, width], "mode": image.mode}
    data = image.tobytes()
    if image.mode == "P":
        palette = image.palette.mode
        about["palette"] = [palette, image.im.getpalette(palette, palette)]
    for name, kinds in (("transparency", (int, bytes, tuple)), ("icc_profile", (bytes,))):
        value = image.info.get(name)
        if isinstance(value, kinds) and (not isinstance(value, bytes) or len(value) <= PROFILE_BYTES_MAX):
            about[name] = list(value) if isinstance(value, tuple) else value
    return Picture(about, data)


def _check_format(extension: str, found: Picture) -> None:
    if extension not in _FORMATS:
        raise ValueError(f"unknown file extension: {extension}")
    name, modes = _FORMATS[extension]
    mode = found.about["mode"] or _mode_of(found.about["shape"])
    if mode not in modes:
        raise OSError(f"cannot write mode {mode} as {name}")


def _mode_of(shape: list[int]) -> str:
    return {1: "L", 3: "RGB", 4: "RGBA"}[shape[2] if len(shape) == 3 else 1]
