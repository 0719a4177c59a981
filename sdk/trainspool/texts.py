"""What the spool can hold of a text that someone else made."""

from __future__ import annotations


def storable(text: str) -> str:
    """Return *text* if the spool can hold it; half a surrogate pair becomes a question mark, as no file can hold it."""
    if text.isascii():
        return text
    try:
        text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return text.encode(errors="replace").decode()
    return text


def reason_of(error: BaseException | None) -> str | None:
    """Return what to say of an uncaught exception, whose own ``__str__`` may be what is broken."""
    if error is None:
        return None
    try:
        return storable(f"{type(error).__name__}: {error}"[:500])
    except Exception:  # noqa: BLE001  its code is not ours, and must not take the place of the exception it tells of
        return type(error).__name__
