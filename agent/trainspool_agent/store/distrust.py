"""After a failed sync of a run's files: written again, as the spool's segments are.

The kernel may have dropped the pages and marked them clean, so a second sync would succeed and mean nothing (LWN,
"PostgreSQL's fsync() surprise", 2018). What can be read now goes to new files under the same names.
"""

from __future__ import annotations

import os

from trainspool_agent.store.files import publish
from trainspool_agent.store.layout import METRICS, PARAMS, TAGS
from trainspool_agent.store.state import RunState


def write_again(state: RunState) -> None:
    """Write the run's metrics, params and tags anew and sync them; no descriptor of theirs may be open. Blocks.

    ``meta.yaml`` and artifacts are synced before they get their names.

    Raises:
        OSError: some are not written; call again before any sync of them is believed.
    """
    for kind in (METRICS, PARAMS, TAGS):
        for folder, _, names in os.walk(f"{state.folder}/{kind}"):
            for name in names:
                with open(f"{folder}/{name}", "rb") as file:
                    data = file.read()
                publish(f"{folder}/{name}", data, state.work, sync=True)
    state.suspect, state.unsynced = False, None  # their names are not on the device yet
