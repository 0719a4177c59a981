"""Sound: samples become a WAV file of 16 bit."""

from __future__ import annotations

import io
import wave
from typing import Any

import numpy as np

from trainspool.spool.events import shown
from trainspool_agent.media.raw import array
from trainspool_agent.store.limits import CHANNELS_MAX

_RATE_MAX = 1 << 20
_BLOCK = 1 << 20  # samples turned at once: the steps on the way are floats


def audio(path: str, about: dict[str, Any], content: bytes) -> bytes:
    """Return samples (samples,) or (samples, channels) at ``rate`` Hz as WAV; floats beyond ±1 are cut off."""
    samples, rate = array(about, content), about["rate"]
    if (
        samples.ndim not in (1, 2)
        or not 1 <= (channels := samples.shape[1] if samples.ndim == 2 else 1) <= CHANNELS_MAX
    ):
        raise ValueError(f"no shape of a sound: {shown(about['shape'])}")
    if type(rate) is not int or not 1 <= rate <= _RATE_MAX:
        raise ValueError(f"no sample rate: {shown(rate)}")
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setnchannels(channels)
        wav.setsampwidth(2)
        wav.setframerate(rate)
        for at in range(0, len(samples), _BLOCK):
            wav.writeframes(sixteen_bit(samples[at : at + _BLOCK]).tobytes())
    return file.getvalue()


def sixteen_bit(samples: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return samples as little-endian 16 bit integers; unsigned bytes are silent at 128, as in WAV."""
    kind, bits = samples.dtype.kind, 8 * samples.dtype.itemsize
    if kind == "f":
        with np.errstate(invalid="ignore"):
            scaled = np.clip(np.nan_to_num(samples.astype(np.float64)), -1.0, 1.0) * 32767
        return np.asarray(np.rint(scaled), "<i2")
    if samples.dtype == np.uint8:
        return ((samples.astype(np.int32) - 128) << 8).astype("<i2")
    if kind == "i" and bits <= 32:
        wide = samples.astype(np.int64)
        return np.asarray(wide << (16 - bits) if bits < 16 else wide >> (bits - 16), "<i2")
    raise ValueError(f"no samples: {samples.dtype.str}")
