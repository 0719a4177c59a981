"""A view of a store, made of links, in which no metric file holds a point twice: a database refuses that.

Source: mlflow-store.md 0, fact 5.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from trainspool_agent.export.lines import without_repeats
from trainspool_agent.export.survey import Repeated
from trainspool_agent.store.layout import METRICS


def view_without(store: str, repeated: Iterable[Repeated], folder: str) -> str:
    """Make *folder* a view of *store*, and return it; only the folders on the way to such a file are real."""
    _mirror(store, folder, {one.file: one for one in repeated}, all_real=False)
    return folder


def _mirror(source: str, target: str, repeated: dict[str, Repeated], *, all_real: bool) -> None:
    os.mkdir(target)
    for entry in os.scandir(source):
        path, here = f"{source}/{entry.name}", f"{target}/{entry.name}"
        below = {file: one for file, one in repeated.items() if file.startswith(f"{path}/")}
        if path in repeated:
            data = without_repeats(Path(path).read_bytes(), of_a_model=repeated[path].of_a_model)
            Path(here).write_bytes(data)
        # Below metrics/ the migration does not follow links.
        elif below or (all_real and entry.is_dir(follow_symlinks=False)):
            _mirror(path, here, below, all_real=all_real or entry.name == METRICS)
        else:
            os.symlink(path, here)
