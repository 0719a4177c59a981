"""What a hostile spool can do: nothing beyond itself.

Each attack stands beside one honest stream. Afterwards the honest one is stored whole, nothing outside spool and store
was read or changed, it took bounded time and memory, someone said what was refused, and MLflow reads the store.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
from click.testing import CliRunner
from conformance.recipe import snapshot
from crash.hostile.attacks import ATTACKS, Attack
from crash.hostile.scene import Scene

from trainspool_agent.cli import main
from trainspool_agent.daemon import Agent
from trainspool_agent.settings import Settings

TIME_LIMIT_S = 60  # of a shared machine
MEMORY_LIMIT_KIB = 400 << 10
EVERY = 15  # of the corpus in `make test`; all of it in `make crash`
CORPUS = [
    pytest.param(attack, id=attack.name, marks=[] if number % EVERY == 0 else pytest.mark.long)
    for number, attack in enumerate(ATTACKS)
]
COMMANDS = (["verify"], ["ls"], ["ls", "-l"], ["status"], ["status", "--json"], ["cat"])


class Late(KeyboardInterrupt):
    """Nobody on the way is to catch it and go on: an event loop lets nothing else through."""


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    made = Scene(tmp_path)
    for name, value in {
        "TRAINSPOOL_DIR": made.spool, "TRAINSPOOL_RING_DIR": made.rings, "XDG_STATE_HOME": tmp_path / "state",
        "XDG_CONFIG_HOME": tmp_path / "state",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("TRAINSPOOL_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    yield made
    made.clean_up()


@contextmanager
def bounded() -> Iterator[None]:
    """No hang, and no memory without end."""

    def ring(_: int, frame: FrameType | None) -> None:
        raise Late(f"not within {TIME_LIMIT_S} s, at {frame}")

    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    before = _peak_kib()
    old = signal.signal(signal.SIGALRM, ring)
    signal.alarm(TIME_LIMIT_S)
    try:
        yield
    except Late as late:
        pytest.fail(str(late))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
    assert _peak_kib() - before < MEMORY_LIMIT_KIB, f"{_peak_kib() - before} KiB more than before"


def _peak_kib() -> int:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1])


def carry(scene: Scene) -> list[str]:
    """Be the agent until everything is carried; return everything that it said."""
    said: list[str] = []
    streams = {}
    agent = Agent(Settings(scene.spool), spools=tuple(scene.more_spools), until_done=True,
                  on_tick=lambda agent: streams.update(agent.streams))  # fmt: skip
    asyncio.run(agent.run())
    for stream in streams.values():
        facts = stream.facts
        said += [str(one) for one in (facts.error, facts.malformed_sample, facts.unknown_kinds) if one]
        said += [f"damaged in {facts.damages} places"] * bool(facts.damages)
    said += [note["error"] for note in agent.health.notes]
    said += [path.read_text(errors="replace") for path in scene.store.glob("*/*/tags/trainspool.problem")]
    return said


@pytest.mark.parametrize("attack", CORPUS)
def test_it_harms_nothing(attack: Attack, scene: Scene) -> None:
    attack.build(scene)
    before = scene.outside(names=not attack.loses_name)
    begun = time.monotonic()
    with bounded():
        said = carry(scene)
    print(f"{attack.name}: {time.monotonic() - begun:.2f} s; said: {[text[:160] for text in said[:4]]}")
    assert scene.outside(names=not attack.loses_name) == before, "something outside spool and store was touched"
    if not attack.holds_store:
        scene.honest_is_stored()
    assert scene.leaked(scene.store) == attack.leaks(scene), "a secret is in the store or the spool"
    assert bool(said) or attack.harmless, "nobody said that anything was wrong"
    if not attack.mlflow_cannot:
        assert scene.honest_run in snapshot(scene.store)


@pytest.mark.parametrize("attack", CORPUS)
def test_who_looks_at_it_is_safe_too(attack: Attack, scene: Scene) -> None:
    attack.build(scene)
    before = scene.outside()
    with bounded():
        for arguments in COMMANDS:
            what = [scene.pens[-1].name] if arguments == ["cat"] else []
            _call(*arguments, *what)
        _call("replay", str(scene.spool), "--to", str(scene.folder / "replayed"))
    scene.honest_is_stored(scene.folder / "replayed")
    assert scene.outside() == before, "something outside spool and store was touched"
    assert scene.leaked(scene.folder / "replayed") == attack.leaks(scene), "a secret is in the store or the spool"
    assert scene.honest_run in snapshot(scene.folder / "replayed")


def _call(*arguments: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code in (0, 1, 2), (arguments, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), (arguments, repr(result.exception))
    raw = {character for character in result.output if ord(character) < 32} - {"\n", "\t"}
    assert not raw, f"control characters reach the terminal from {arguments}: {raw}"
