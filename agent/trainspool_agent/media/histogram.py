"""A histogram of values: JSON, or a picture of it for MLflow's image grid, by the path's extension."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from trainspool.spool.events import shown
from trainspool_agent.media.image import saved, small
from trainspool_agent.media.raw import array
from trainspool_agent.store.limits import BINS_MAX

_BLOCK = 1 << 20  # values counted at once
_WIDTH, _HEIGHT, _MARGIN = 480, 320, 24
_INK, _BAR, _PAPER = (60, 60, 60), (31, 119, 180), (255, 255, 255)
_FLOAT_MAX = float(np.finfo(np.float64).max)


class Counted(NamedTuple):
    """What a histogram says of its values; ``inf`` and ``-inf`` and NaN are counted beside the bins."""

    edges: list[float]
    counts: list[int]
    nan: int
    inf: int
    minus_inf: int
    min: float | None
    max: float | None
    mean: float | None


def histogram(path: str, about: dict[str, Any], content: bytes) -> bytes:
    key, step, bins = about["key"], about["step"], about["bins"]
    if type(key) is not str or type(step) is not int or len(key) > 1000:
        raise ValueError(f"no key and step: {shown(key)}, {shown(step)}")
    if type(bins) is not int or not 1 <= bins <= BINS_MAX:
        raise ValueError(f"no number of bins: {shown(bins)}")
    counted = count(array(about, content), bins)
    if path.endswith(".json"):
        said = {"key": key, "step": step, "count": sum(counted.counts), **counted._asdict()}
        return json.dumps(said, separators=(",", ":"), allow_nan=False).encode()
    drawn = draw(counted, f"{key}, step {step}")
    return saved(small(drawn) if "+compressed" in path else drawn, path, {})


def count(values: np.ndarray[Any, Any], bins: int) -> Counted:
    """Return how many finite *values* are in each of *bins* bins of equal width, and what else there is to say."""
    nan = inf = minus_inf = finite = 0
    low, high, total = float("inf"), float("-inf"), 0.0
    for block in _blocks(values):
        nan += int(np.isnan(block).sum())
        inf += int((block == np.inf).sum())
        minus_inf += int((block == -np.inf).sum())
        known = block[np.isfinite(block)]
        if known.size:
            low, high = min(low, float(known.min())), max(high, float(known.max()))
            total += float((known / values.size).sum())  # so that it cannot overflow
            finite += known.size
    if not finite:
        return Counted(np.linspace(0.0, 1.0, bins + 1).tolist(), [0] * bins, nan, inf, minus_inf, None, None, None)
    edges = _edges(low, high, bins)
    # Bins of one width are counted fast, but NumPy's way there overflows at the ends of what floats can be.
    fast = 1e-290 < float(edges[-1]) / 2 - float(edges[0]) / 2 < 1e290
    counts = np.zeros(bins, np.int64)
    for block in _blocks(values):
        known = block[np.isfinite(block)]
        counts += np.histogram(known, bins, (edges[0], edges[-1]))[0] if fast else np.histogram(known, edges)[0]
    mean = total * (values.size / finite)
    return Counted(edges.tolist(), counts.tolist(), nan, inf, minus_inf, low, high, mean)


def _blocks(values: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
    flat = values.reshape(-1)
    for at in range(0, len(flat), _BLOCK):
        yield flat[at : at + _BLOCK].astype(np.float64)


def _edges(low: float, high: float, bins: int) -> np.ndarray[Any, Any]:
    """Return edges that rise: where all values are nearly one, there is some room around it."""
    edges = _evenly(low, high, bins)
    if (edges[1:] > edges[:-1]).all():
        return edges
    room = max(0.5, 1e-6 * abs(low))
    return _evenly(max(low - room, -_FLOAT_MAX), min(high + room, _FLOAT_MAX), bins)


def _evenly(low: float, high: float, bins: int) -> np.ndarray[Any, Any]:
    share = np.arange(bins + 1) / bins
    edges = low * (1 - share) + high * share  # high - low may be no float
    edges[0], edges[-1] = low, high
    return np.asarray(edges)


def draw(counted: Counted, title: str) -> Image.Image:
    """Return the histogram as bars, with what it says below."""
    made = Image.new("RGB", (_WIDTH, _HEIGHT), _PAPER)
    pen = ImageDraw.Draw(made)
    base, tallest = _HEIGHT - 2 * _MARGIN, max(counted.counts) or 1
    width = (_WIDTH - 2 * _MARGIN) / len(counted.counts)
    for number, many in enumerate(counted.counts):
        if many:
            left = _MARGIN + number * width
            top = base - max(1, round(many / tallest * (base - _MARGIN)))
            pen.rectangle((left, top, max(left, left + width - 1), base), _BAR)
    pen.line((_MARGIN, base, _WIDTH - _MARGIN, base), _INK)
    pen.text((_MARGIN, 6), _ascii(title)[:72], _INK)
    pen.text((_MARGIN, base + 4), f"{counted.edges[0]:.4g}", _INK)
    pen.text((_WIDTH - _MARGIN - 60, base + 4), f"{counted.edges[-1]:.4g}", _INK)
    mean = "none" if counted.mean is None else f"{counted.mean:.4g}"
    others = f"nan {counted.nan}, inf {counted.inf + counted.minus_inf}"
    pen.text((_MARGIN, base + 22), f"{sum(counted.counts)} values, mean {mean}, {others}", _INK)
    return made


def _ascii(text: str) -> str:
    """The letters that Pillow's own font has on every machine."""
    return text.encode("ascii", "replace").decode()
