"""The forms by name. Tables (form ``rows``) are the store's: they grow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainspool_agent.media.audio import audio
from trainspool_agent.media.histogram import histogram
from trainspool_agent.media.image import image, thumbnail

FORMS: dict[str, Callable[[str, dict[str, Any], bytes], bytes]] = {
    "audio": audio,
    "histogram": histogram,
    "image": image,
    "thumbnail": thumbnail,
}
