"""Each form: what is made of raw bytes, and what a stream may not ask for."""

from __future__ import annotations

import io
import json
import math
import sys
import wave
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from trainspool_agent import media
from trainspool_agent.store import limits
from trainspool_agent.store.errors import Refused


def about(form: str, array: Any, **more: Any) -> tuple[dict[str, Any], bytes]:
    return {"form": form, "dtype": array.dtype.str, "shape": list(array.shape), **more}, array.tobytes()


def encode(path: str, form: str, array: Any, **more: Any) -> bytes:
    return media.encode(path, *about(form, array, **more))


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_bytes_are_the_pixels_of_a_png() -> None:
    pixels = np.arange(60, dtype=np.uint8).reshape(5, 4, 3)
    made = opened(encode("a/b.PNG", "image", pixels))
    assert made.format == "PNG" and (np.asarray(made) == pixels).all()


@pytest.mark.parametrize(("dtype", "values", "expected"), [
    ("f4", [0, 0.5, 1], [0, 127, 255]),
    ("f8", [-1, 0, 1], [0, 127, 255]),
    ("f2", [0, 1, 2], [0, 127, 255]),
    ("?", [0, 1, 1], [0, 255, 255]),
    ("i8", [0, 7, 255], [0, 7, 255]),
])  # fmt: skip
def test_other_numbers_become_bytes_as_mlflow_makes_them(dtype: str, values: list[float], expected: list[int]) -> None:
    made = opened(encode("a.png", "image", np.array([values], dtype), mode=None))
    assert np.asarray(made).tolist() == [expected]


def test_floats_are_scaled_as_one_however_many_blocks_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainspool_agent.media import image

    pixels = np.random.default_rng(1).normal(size=(50, 30))
    whole = encode("a.png", "image", pixels)
    monkeypatch.setattr(image, "_BLOCK_ROWS_BYTES", 700)
    assert encode("a.png", "image", pixels) == whole


def test_a_flat_picture_of_floats_beyond_one_is_made_of_something() -> None:
    assert opened(encode("a.png", "image", np.full((3, 3), 7.0))).size == (3, 3)
    assert opened(encode("a.png", "image", np.full((3, 3), np.nan))).size == (3, 3)


@pytest.mark.parametrize(("shape", "size"), [((100, 50), (128, 256)), ((10, 1000), (256, 2)), ((1, 5000), (256, 1))])
def test_a_thumbnail_fits_256(shape: tuple[int, int], size: tuple[int, int]) -> None:
    made = opened(encode("a+compressed.webp", "thumbnail", np.zeros(shape, np.uint8)))
    assert made.format == "WEBP" and made.size == size


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_a_mode_of_pillows_has_a_thumbnail_too(mode: str) -> None:
    picture = Image.new("L", (300, 200), 77).convert(mode if mode != "I;16" else "I").convert(mode)
    said = {"shape": [200, 300], "mode": mode, "palette": ["RGB", bytes(768)]}
    assert opened(media.encode("a.webp", {"form": "thumbnail", **said}, picture.tobytes())).size == (256, 170)


HOSTILE_IMAGES: dict[str, dict[str, Any]] = {
    "objects": {"dtype": "|O", "shape": [2, 3]},
    "pickled": {"dtype": "O", "shape": [2, 3]},
    "a type of fields": {"dtype": "|V6", "shape": [1, 1]},
    "a list for a type": {"dtype": [["a", "|u1"]], "shape": [2, 3]},
    "dates": {"dtype": "<M8[ns]", "shape": [2, 3]},
    "texts": {"dtype": "<U1", "shape": [2, 3]},
    "another size": {"dtype": "|u1", "shape": [2, 2]},
    "a larger size": {"dtype": "<f8", "shape": [2, 3]},
    "negative": {"dtype": "|u1", "shape": [-2, -3]},
    "no pixels": {"dtype": "|u1", "shape": [0, 6]},
    "too many pixels": {"dtype": "|u1", "shape": [1 << 20, 1 << 20]},
    "an endless shape": {"dtype": "|u1", "shape": [1 << 70, 1]},
    "a float in the shape": {"dtype": "|u1", "shape": [2.0, 3]},
    "true in the shape": {"dtype": "|u1", "shape": [6, True]},
    "a text for a shape": {"dtype": "|u1", "shape": "23"},
    "no shape": {"dtype": "|u1"},
    "no type": {"shape": [2, 3]},
    "one dimension": {"dtype": "|u1", "shape": [6]},
    "many dimensions": {"dtype": "|u1", "shape": [1] * 30 + [2, 3]},
    "two channels": {"dtype": "|u1", "shape": [1, 3, 2]},
    "a mode of nobody": {"dtype": "|u1", "shape": [2, 3], "mode": "XYZ"},
    "a mode of another size": {"dtype": "|u1", "shape": [2, 3], "mode": "RGBA"},
    "a mode that is a list": {"dtype": "|u1", "shape": [2, 3], "mode": ["L"]},
    "a palette of nobody": {"dtype": "|u1", "shape": [2, 3], "mode": "P", "palette": ["XYZ", b"abc"]},
    "a palette without end": {"dtype": "|u1", "shape": [2, 3], "mode": "P", "palette": ["RGB", bytes(5000)]},
    "no palette": {"dtype": "|u1", "shape": [2, 3], "mode": "P"},
    "a palette in pieces": {"dtype": "|u1", "shape": [2, 3], "mode": "P", "palette": [["RGB"], 5]},
    "transparency of a list": {"dtype": "|u1", "shape": [2, 3], "mode": "L", "transparency": ["a", {}]},
    "transparency without end": {"dtype": "|u1", "shape": [2, 3], "mode": "L", "transparency": 1 << 60},
}


@pytest.mark.parametrize("said", HOSTILE_IMAGES.values(), ids=HOSTILE_IMAGES.keys())
@pytest.mark.parametrize("form", ["image", "thumbnail"])
def test_a_picture_that_is_none_is_refused(said: dict[str, Any], form: str) -> None:
    with pytest.raises(Refused):
        media.encode("a.png", {"form": form, **said}, b"abcdef")


@pytest.mark.parametrize("path", ["a", "a.txt", "a.svg", "a.eps", "a.pdf", "a.png/x", ".png"])
def test_a_format_that_is_none_of_a_picture_is_refused(path: str) -> None:
    with pytest.raises(Refused, match="no image can be made"):
        encode(path, "image", np.zeros((2, 2), np.uint8))


@pytest.mark.parametrize("form", ["rows", "pickle", "", "__class__", None, 7, ["image"]])
def test_a_form_that_nobody_knows_is_refused(form: Any) -> None:
    with pytest.raises(Refused, match="form"):
        media.encode("a.png", {"form": form, "dtype": "|u1", "shape": [1, 1]}, b"a")


def test_without_numpy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("trainspool_agent.media.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(media, "forms", raising=False)
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(Refused, match=r"pip install 'trainspool\[agent\]'"):
        media.encode("a.png", {"form": "image", "dtype": "|u1", "shape": [1, 1]}, b"a")


def test_the_agent_loads_neither_library_before_there_is_media() -> None:
    import subprocess

    program = "import trainspool_agent.daemon, sys; print([m for m in ('numpy', 'PIL', 'pandas') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout.strip() == b"[]"


# -- sound ----------------------------------------------------------------------------------------------------------


def samples(data: bytes) -> tuple[int, int, list[int]]:
    with wave.open(io.BytesIO(data)) as wav:
        assert wav.getsampwidth() == 2
        frames = np.frombuffer(wav.readframes(wav.getnframes()), "<i2")
        return wav.getframerate(), wav.getnchannels(), frames.tolist()


@pytest.mark.parametrize(("dtype", "values", "expected"), [
    ("<f4", [0, 1, -1, 0.5, 7, -7, math.nan], [0, 32767, -32767, 16384, 32767, -32767, 0]),
    (">f8", [0.25], [8192]),
    ("<i2", [-32768, 5, 32767], [-32768, 5, 32767]),
    ("<i4", [-(2**31), 1 << 16, 2**31 - 1], [-32768, 1, 32767]),
    ("|i1", [-128, 1], [-32768, 256]),
    ("|u1", [0, 128, 255], [-32768, 0, 32512]),
])  # fmt: skip
def test_samples_become_sixteen_bit(dtype: str, values: list[float], expected: list[int]) -> None:
    assert samples(encode("a.wav", "audio", np.array(values, dtype), rate=8000)) == (8000, 1, expected)


def test_channels_lie_side_by_side() -> None:
    stereo = np.array([[1, 2], [3, 4], [5, 6]], np.int16)
    assert samples(encode("a.wav", "audio", stereo, rate=44_100)) == (44_100, 2, [1, 2, 3, 4, 5, 6])


@pytest.mark.parametrize("said", [
    {"rate": 0}, {"rate": -1}, {"rate": 1.5}, {"rate": "8000"}, {"rate": 1 << 40}, {}, {"rate": True},
    {"rate": 8000, "shape": [3, 2, 1]}, {"rate": 8000, "shape": [1, 6], "dtype": "<i8"},
    {"rate": 8000, "shape": [6, 0]}, {"rate": 8000, "shape": []}, {"rate": 8000, "dtype": "|b1"},
])  # fmt: skip
def test_a_sound_that_is_none_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        media.encode("a.wav", {"form": "audio", "dtype": "|u1", "shape": [6], **said}, b"abcdef")


# -- histograms -----------------------------------------------------------------------------------------------------


def histogram(values: Any, bins: int = 4) -> dict[str, Any]:
    made = json.loads(encode("h.json", "histogram", np.asarray(values), bins=bins, key="w", step=3))
    assert len(made["edges"]) == bins + 1 and len(made["counts"]) == bins
    assert made["edges"] == sorted(set(made["edges"]))
    return dict(made)


def test_a_histogram_counts_what_is_finite_and_the_rest_apart() -> None:
    made = histogram([0.0, 1.0, 1.9, 4.0, math.nan, math.inf, math.inf, -math.inf])
    assert made["edges"] == [0, 1, 2, 3, 4] and made["counts"] == [1, 2, 0, 1]
    assert (made["nan"], made["inf"], made["minus_inf"], made["count"]) == (1, 2, 1, 4)
    assert (made["min"], made["max"], made["key"], made["step"]) == (0.0, 4.0, "w", 3)
    assert made["mean"] == pytest.approx(1.725)


def test_a_histogram_of_nothing_says_so() -> None:
    for values in (np.zeros(0), [math.nan, math.inf]):
        made = histogram(values)
        assert made["counts"] == [0] * 4 and made["min"] is made["max"] is made["mean"] is None


@given(st.lists(st.floats(width=64), max_size=50), st.integers(1, 64))
def test_every_value_is_counted_once(values: list[float], bins: int) -> None:
    made = histogram(np.array(values, np.float64), bins)
    assert sum(made["counts"]) + made["nan"] + made["inf"] + made["minus_inf"] == len(values)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50).filter(lambda some: max(some) - min(some) > 1e-3))
def test_it_agrees_with_numpy(values: list[float]) -> None:
    counts, edges = np.histogram(values, 16)
    made = histogram(np.array(values), 16)
    assert made["counts"] == counts.tolist() and made["edges"] == pytest.approx(edges.tolist())


def test_values_are_counted_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainspool_agent.media import histogram as module

    values = np.random.default_rng(2).normal(size=(100, 10)).astype(np.float16)
    whole = histogram(values)
    monkeypatch.setattr(module, "_BLOCK", 33)
    blocks = histogram(values)
    assert blocks.pop("mean") == pytest.approx(whole.pop("mean")) and blocks == whole


def test_a_histogram_is_drawn_for_the_image_grid() -> None:
    values = np.random.default_rng(3).normal(size=1000)
    drawn = opened(encode("i.png", "histogram", values, bins=64, key="w/损失", step=3))
    blank = opened(encode("i.png", "histogram", values[:0], bins=64, key="w/损失", step=3))
    blue = [int((np.asarray(one.convert("RGB")) == (31, 119, 180)).all(axis=2).sum()) for one in (drawn, blank)]
    assert drawn.size == (480, 320) and blue[0] > 5000 and blue[1] == 0
    small = opened(encode("i+compressed.webp", "histogram", values, bins=64, key="w", step=3))
    assert small.size == (256, 170)


@pytest.mark.parametrize("said", [
    {"bins": 0}, {"bins": limits.BINS_MAX + 1}, {"bins": 1.5}, {"bins": True}, {"bins": 1 << 70}, {"key": 5},
    {"step": "1"},
    {"key": "k" * 5000}, {"dtype": "|O"}, {"shape": [5]}, {"bins": None},
])  # fmt: skip
def test_a_histogram_that_is_none_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        good = {"form": "histogram", "dtype": "|u1", "shape": [6], "bins": 4, "key": "k", "step": 1}
        media.encode("h.json", {**good, **said}, b"abcdef")
