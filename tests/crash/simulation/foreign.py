"""Someone who logs to the same runs with MLflow, renames them, deletes them: by MLflow's own ways of writing files."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import yaml
from crash.simulation.world import World
from crash.simulation.writers import KEYS


class Foreigner:
    """Remembers what it did, to find it again at the end."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.lines: dict[str, dict[str, list[str]]] = {}  # run → key → lines
        self._texts: dict[tuple[str, str], str] = {}
        self._meta: dict[tuple[str, str], Any] = {}
        self._count = 0

    def act(self, rng: random.Random) -> None:
        """Do one thing to one run that is there."""
        found = sorted(path.parent for path in self.world.store.glob("[0-9]*/*/meta.yaml"))
        if found:
            rng.choice((self._log, self._log, self._text, self._rename, self._delete))(rng, rng.choice(found))

    def _log(self, rng: random.Random, run: Path) -> None:
        key = rng.choice((*KEYS, "foreign"))
        path = run / "metrics" / key
        if path.is_dir() or any(parent.is_file() for parent in path.parents):
            return  # MLflow refuses it
        self._count += 1
        line = f"{self.world.wall_ns // 1_000_000} {self._count + 0.123} {rng.randrange(5)}\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(line)
        self.lines.setdefault(run.name, {}).setdefault(key, []).append(line)

    def _text(self, rng: random.Random, run: Path) -> None:
        path, value = f"{rng.choice(('params', 'tags'))}/foreign.{rng.randrange(3)}", str(rng.random())
        (run / path).write_text(value)
        self._texts[run.name, path] = value

    def _rename(self, rng: random.Random, run: Path) -> None:
        self._change(run, "run_name", f'"by hand {rng.randrange(100)}"')

    def _delete(self, rng: random.Random, run: Path) -> None:
        self._change(run, "lifecycle_stage", "deleted")

    def _change(self, run: Path, key: str, value: str) -> None:
        text = (run / "meta.yaml").read_text()
        (run / "meta.yaml").write_text(re.sub(rf"^{key}: .*$", f"{key}: {value}", text, flags=re.MULTILINE))
        self._meta[run.name, key] = value.strip('"')

    def check(self, found: dict[str, Path]) -> None:
        """All of it is still there."""
        for (run, path), value in self._texts.items():
            assert (found[run] / path).read_text() == value, (run, path)
        for (run, key), value in self._meta.items():
            values = yaml.safe_load((found[run] / "meta.yaml").read_text())
            if key != "run_name":  # a later start gives it another name
                assert values[key] == value, (run, key, values[key])
        for run, keys in self.lines.items():
            for key, lines in keys.items():
                text = (found[run] / "metrics" / key).read_text()
                assert all(line in text for line in lines), (run, key)
