"""Artifacts that are made of what the SDK staged raw: one small file per form; pure functions, bytes in, bytes out.

NumPy and Pillow are loaded when the first one comes. What a stream says is checked before anything is made of it: no
pickle, no objects, no size that the staged file does not have.

Source: sdk/docs/spool-format.md, "Events", kind 14.
"""

from __future__ import annotations

import threading
from typing import Any

from trainspool.spool.events import shown
from trainspool_agent.store.errors import Refused

_MALFORMED = (AttributeError, TypeError, ValueError, LookupError, OverflowError)
_one_at_a_time = threading.Lock()  # bounds memory: an image of 256 MiB takes thrice that on its way


def encode(path: str, about: dict[str, Any], content: bytes) -> bytes:
    """Return the artifact at *path* that is made of *content* as *about* says.

    Raises:
        Refused: *about* does not fit *content*, or asks for what is not made.
    """
    form = about.get("form")
    try:
        from trainspool_agent.media import forms
    except ImportError as error:
        raise Refused(
            f"{path!r:.200} was not made: {error}. Next: pip install 'trainspool[agent]', then trainspool replay"
        ) from error
    make = forms.FORMS.get(form) if isinstance(form, str) else None
    if make is None:
        raise Refused(f"{path!r:.200}: no form of media is called {shown(form)}; a newer agent may know it")
    try:
        with _one_at_a_time:
            return make(path, about, content)
    except _MALFORMED as error:
        raise Refused(f"{path!r:.200}: no {form} can be made of {len(content)} bytes: {str(error)[:200]}") from error
