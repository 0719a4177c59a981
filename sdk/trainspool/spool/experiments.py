"""The id of an experiment, from its name alone: SDK and agent show and make the same one, on every box.

Source: design.md 2.5; MLflow's default experiment is ``0``, its other ids are 18 digits.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator

DEFAULT_NAME = "Default"
DEFAULT_ID = "0"
_SMALLEST = 10**17


def experiment_id_for(name: str) -> str:
    """Return the id that a new experiment called *name* gets.

    >>> experiment_id_for("Default"), experiment_id_for("mnist")
    ('0', '674333905717109819')
    """
    if name == DEFAULT_NAME:
        return DEFAULT_ID
    return _derived(name.encode("utf-8", "surrogatepass"))


def experiment_ids_for(name: str) -> Iterator[str]:
    """Yield the ids that a new experiment called *name* may get: the first that no other has, which was renamed since.

    >>> from itertools import islice
    >>> list(islice(experiment_ids_for("mnist"), 2))
    ['674333905717109819', '477258619888476717']
    """
    yield experiment_id_for(name)
    for number in itertools.count(1):
        yield _derived(b"%b\0%d" % (name.encode("utf-8", "surrogatepass"), number))


def _derived(text: bytes) -> str:
    digest = hashlib.blake2b(text, digest_size=8).digest()
    return str(_SMALLEST + int.from_bytes(digest, "big") % (9 * _SMALLEST))
