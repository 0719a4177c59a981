"""Agent, streams and everything that needs a person, for `trainspool status`; works without an agent."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

from trainspool.spool.events import FORMAT_VERSION
from trainspool.spool.ringfolder import state_folder
from trainspool_agent import agentlock, health
from trainspool_agent.compact import EventFrame
from trainspool_agent.look import facts as eventfacts
from trainspool_agent.look import spool as inspect_spool
from trainspool_agent.look.frames import Event, events_of
from trainspool_agent.look.fullness import usage_facts, usage_problems
from trainspool_agent.look.spool import DEAD, ENDED, LIVE, SeenStream
from trainspool_agent.settings import Retention

SAMPLE_S = 0.25
LAGS_MAX = 100


def overview(spools: list[Path], rules: Retention = Retention()) -> dict[str, Any]:  # noqa: B008
    """Return the facts as one JSON object: ``agent``, ``spools``, ``usage``, ``streams``, ``problems``.

    Takes a quarter of a second where a stream lives, to measure its byte rate.
    """
    agent, said = _agent()
    streams = [seen for spool in spools for seen in inspect_spool.seen_streams(spool)]
    rates = _rates(streams)
    told = {one.get("stream"): one for one in (said or {}).get("streams", []) if isinstance(one, dict)}
    facts = [_stream(seen, told.get(seen.name, {}), rates.get(seen.name)) for seen in streams]
    usage = [usage_facts(spool, rules, (said or {}).get("retention") or {}) for spool in spools]
    problems = [*_agent_problems(agent, said), *(one for fact in usage for one in usage_problems(fact))]
    problems += (one for fact in facts for one in _stream_problems(fact))
    on_their_way = _artifacts(said) if agent["running"] else {}
    problems += (_problem(store, *why) for store, one in on_their_way.items() if (why := _why_waiting(one)))
    return {
        "agent": agent,
        "spools": [str(spool) for spool in spools],
        "usage": usage,
        "streams": facts,
        "artifacts": on_their_way,
        "problems": problems,
    }


def _artifacts(said: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
    """What the agent said last of the artifacts on their way, by store."""
    found = (said or {}).get("artifacts")
    return found if isinstance(found, dict) else {}


def _why_waiting(about: dict[str, Any]) -> tuple[str, str] | None:
    if not about.get("error"):
        return None
    return f"{about.get('waiting')} artifacts wait: {about['error']}", str(about.get("next_step"))


def _agent() -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What the agent's lock says, and what it said of its streams last."""
    about, said = None, None
    with contextlib.suppress(OSError):
        folder = inspect_spool.ring_places()[0]
        if folder is not None:
            about, said = agentlock.running_agent(folder), health.read(folder)
    log = (about or {}).get("log") or (str(path) if (path := state_folder() / "agent.log").exists() else None)
    found: dict[str, Any] = {"running": about is not None, **(about or {}), "log": log}
    if about is None:
        found["next_step"] = "trainspool daemon, or trainspool sync to carry over what is there and leave"
    return found, said


def _agent_problems(agent: dict[str, Any], said: dict[str, Any] | None) -> list[dict[str, str]]:
    found = []
    theirs = agent.get("format", FORMAT_VERSION)
    if agent["running"] and theirs != FORMAT_VERSION:
        what = f"the agent (pid {agent.get('pid')}) reads format {theirs}, this trainspool writes {FORMAT_VERSION}"
        found.append(_problem("agent", what, f"kill {agent.get('pid')}; the next one is started by itself"))
    for note in (said or {}).get("notes", []) if agent["running"] else []:
        found.append(_problem(str(note.get("where")), str(note.get("error")), str(note.get("next_step"))))
    return found


def _stream(seen: SeenStream, told: dict[str, Any], rate: float | None) -> dict[str, Any]:
    identity = seen.identity
    return {
        "stream": seen.name,
        "host": seen.place.host,
        "program": identity.get("program"),
        "pid": identity.get("pid"),
        "rank": identity.get("rank"),
        "life": seen.life,
        "spool": str(seen.place.spool),
        "written": seen.written,
        "in_ring": seen.in_ring,
        "end": seen.end,
        "stored": seen.end if seen.finished else seen.stored,
        "waiting": seen.waiting,
        "lag_ms": _lag_ms(seen),
        "worst_lag_ms": told.get("worst_lag_ms"),
        "points": seen.points,
        "ring_bytes": seen.ring_bytes,
        "bytes_per_s": rate,
        "absorbs_s": seen.ring_bytes / rate if seen.ring_bytes and rate else None,
        "dropped": {run: list(counts) for run, counts in seen.dropped.items()} or told.get("dropped", {}),
        "damaged_points": max(seen.damaged_points, told.get("damaged_points", 0)),
        "damaged_events": max(seen.damaged_events, told.get("damaged_events", 0)),
        "unknown_tail": seen.unknown_tail,
        "unknown_kinds": told.get("unknown_kinds", {}),
        "malformed": told.get("malformed", 0),
        "malformed_sample": told.get("malformed_sample", ""),
        "error": seen.trouble or told.get("error"),
        "next_step": told.get("next_step"),
    }


def _lag_ms(seen: SeenStream) -> float:
    """The age of the oldest event that the store does not have."""
    if not seen.waiting:
        return 0.0
    frames = seen.frames(seen.stored)
    with contextlib.closing(frames):
        for part in frames.read():
            for event in events_of(part, frames.dictionary) if isinstance(part, EventFrame) else ():
                when = eventfacts.facts("", event, frames.dictionary).get("time") if isinstance(event, Event) else None
                if isinstance(when, int):
                    return round(max(0.0, (time.time_ns() - when) / 1e6), 1)
    return 0.0


def _rates(streams: list[SeenStream]) -> dict[str, float]:
    """Bytes per second of each live stream: now, or on average since its birth if that is more."""
    live = [seen for seen in streams if seen.life == LIVE and seen.ring_bytes]
    begun = time.monotonic()
    if live:
        time.sleep(SAMPLE_S)
    rates = {}
    for seen in live:
        after = inspect_spool.look_at(seen.place, seen.rings[0] if seen.rings else None)
        now = (after.end - seen.end) / (time.monotonic() - begun)
        wall = seen.identity.get("wall")
        age_s = (time.time_ns() - wall) / 1e9 if isinstance(wall, int) else 0.0
        rates[seen.name] = max(now, after.end / age_s if age_s > 0 else 0.0)
    return rates


def _stream_problems(fact: dict[str, Any]) -> list[dict[str, str]]:
    where, found = f"stream {fact['stream'][:8]}", []
    if fact["error"]:
        found.append(_problem(where, fact["error"], fact["next_step"] or "trainspool doctor"))
    points, events = (sum(counts[index] for counts in fact["dropped"].values()) for index in (0, 1))
    if points or events:
        what = f"{events:,} events with {points:,} points were dropped: the ring of {fact['program']} was full"
        found.append(_problem(where, what, "a larger TRAINSPOOL_RING_BYTES, or a spool on a faster disk"))
    if fact["damaged_points"] or fact["damaged_events"]:
        what = f"{fact['damaged_events']:,} events with {fact['damaged_points']:,} points were lost to damaged frames"
        found.append(_problem(where, what, f"trainspool verify {fact['spool']}, and look at the disk"))
    if fact["unknown_tail"]:
        what = "its process died and its ring was out of reach: what the ring held is unknown"
        found.append(_problem(where, what, "run the agent in the container or on the host of the process"))
    if fact["unknown_kinds"]:
        kinds = ", ".join(map(str, fact["unknown_kinds"]))
        what = f"events of kinds {kinds} are newer than the agent; they stay in the spool"
        found.append(_problem(where, what, "pip install --upgrade 'trainspool[agent]', then restart the agent"))
    if fact["malformed"]:
        what = f"{fact['malformed']} events break the format: {fact['malformed_sample']}"
        found.append(_problem(where, what, "please report it with the stream's folder"))
    return found


def _problem(where: str, what: str, next_step: str) -> dict[str, str]:
    return {"where": where, "what": what, "next_step": next_step}


def is_quiet(fact: dict[str, Any]) -> bool:
    """Whether a stream is over and all of it is stored: nobody needs to see it every time."""
    return fact["life"] in (ENDED, DEAD) and not fact["waiting"] and not _stream_problems(fact)
