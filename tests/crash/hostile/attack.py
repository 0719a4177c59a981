"""What an attack is, and how one is written down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from crash.hostile.scene import Scene


@dataclass(frozen=True)
class Attack:
    """One way to do harm.

    Attributes:
        harmless: nothing has to be said: what was asked for is legal after all.
        mlflow_cannot: what MLflow chokes on was in the store before us.
        loses_name: something outside has a name in the store, which is replaced there.
        holds_store: it stands in the store, in the way of every run: all is refused, said, and kept in the spool.
    """

    name: str
    build: Callable[[Scene], None]
    harmless: bool = False
    mlflow_cannot: bool = False
    holds_store: bool = False
    loses_name: bool = False
    leaks: Callable[[Scene], list[Path]] = field(default=lambda scene: [])


class Corpus(list[Attack]):
    """Attacks of one kind; ``@corpus.add(...)`` above a function that builds one."""

    def add(
        self,
        name: str,
        *,
        harmless: bool = False,
        mlflow_cannot: bool = False,
        holds_store: bool = False,
        loses_name: bool = False,
    ) -> Callable[[Callable[[Scene], None]], Callable[[Scene], None]]:
        def note(build: Callable[[Scene], None]) -> Callable[[Scene], None]:
            self.append(Attack(name, build, harmless, mlflow_cannot, holds_store, loses_name))
            return build

        return note

    def each(
        self, prefix: str, build: Callable[..., None], cases: dict[str, object], *, harmless: bool = False
    ) -> None:
        """Add one attack for each of *cases*: *build* gets the scene and the case."""
        for name, case in cases.items():
            self.append(Attack(f"{prefix}: {name}", lambda scene, case=case: build(scene, case), harmless))
