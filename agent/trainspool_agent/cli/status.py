"""`trainspool status`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from trainspool.spool.layout import host_name
from trainspool_agent.cli import show
from trainspool_agent.look import account, findrun, overview
from trainspool_agent.look import spool as inspect_spool
from trainspool_agent.settings import Settings

DEFAULT_STORE = Path("mlruns")
USAGE_KEYS = "spool", "bytes", "quota_bytes", "files", "quota_files", "freed_segments", "freed_bytes"
ARTIFACT_KEYS = "waiting", "bytes", "done_bytes", "rate", "remaining_s", "path"


@click.command()
@click.argument("run", required=False)
@click.option("-a", "--all", "everything", is_flag=True, help="Streams too that are over and stored.")
@show.spool_option
@show.store_option
@show.json_option
@show.failing_kindly
def status(run: str | None, everything: bool, spool: Path | None, store: Path | None, as_json: bool) -> None:
    """Show the agent and every stream; for a RUN (its id, the beginning of one, or its name), its account.

    Works without an agent. Exit status 1 if anything needs a person: an error, drops, damage, unknown kinds of event.

    \b
    Example: trainspool status 3f2a91c0
    """
    settings = show.settings_of(spool, store)
    spools = inspect_spool.spools_in_use(spool.absolute() if spool else None, settings.spool)
    if run is not None:
        _show_run(run, settings, spools, as_json)
    facts = overview.overview(spools, settings.retention)
    if as_json:
        show.print_json(facts)
    elif show.for_a_person():
        _print_agent(facts)
        _print_streams(facts, everything)
        _print_problems(facts["problems"])
    else:
        _print_plain(facts)
    sys.exit(1 if facts["problems"] else 0)


def _show_run(text: str, settings: Settings, spools: list[Path], as_json: bool) -> None:
    streams = [seen for spool in spools for seen in inspect_spool.seen_streams(spool)]
    run = findrun.find_run(text, [(settings.store or DEFAULT_STORE).absolute()], streams)
    facts = account.run_facts(run, streams)
    if as_json:
        show.print_json(facts)
    elif show.for_a_person():
        _print_run(facts)
    else:
        _print_run_plain(facts)
    sys.exit(1 if account.needs_a_person(facts) else 0)


# -- the box --------------------------------------------------------------------------------------------------------


def _print_agent(facts: dict[str, Any]) -> None:
    agent = facts["agent"]
    if agent["running"]:
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(agent.get("started", 0) / 1e9))
        show.say(f"agent   running, pid {agent.get('pid')}, version {agent.get('version')}, since {since}", "green")
    else:
        show.say(f"agent   not running. Next: {agent['next_step']}", "yellow")
    if agent["log"]:
        show.say(f"log     {agent['log']}")
    for one in facts["usage"]:
        early = ", over its quota: given up early" if one["given_up_early"] else ""
        freed = f"; {one['freed_segments']:,} segments deleted, {show.size(one['freed_bytes'])}{early}"
        full = f"{show.size(one['bytes'])} of {show.size(one['quota_bytes'])}{freed if one['freed_segments'] else ''}"
        show.say(f"spool   {one['spool']}  {full}", "red" if one["excess"] else None)
    for store, one in facts["artifacts"].items():
        show.say(f"artifacts on their way to {store}: {show.progress(one)}")


def _print_streams(facts: dict[str, Any], everything: bool) -> None:
    shown = [fact for fact in facts["streams"] if everything or not overview.is_quiet(fact)]
    rows = []
    for fact in shown:
        program = Path(str(fact["program"] or "")).name + ("" if fact["host"] == host_name() else f" on {fact['host']}")
        sizes = show.size(fact["written"]), show.size(fact["in_ring"]), show.size(fact["waiting"])
        lag = show.seconds(fact["lag_ms"] / 1000) if fact["waiting"] else "-"
        drops = show.count(sum(points for points, _ in fact["dropped"].values()))
        name = fact["stream"][:8], fact["life"], program, fact["pid"]
        rows.append((*name, *sizes, lag, drops, show.seconds(fact["absorbs_s"])))
    headings = "stream", "life", "program", ">pid", ">spooled", ">in ring", ">unstored", ">lag", ">drops", ">absorbs"
    if rows:
        show.print_table(headings, rows)
    over = len(facts["streams"]) - len(shown)
    if over:
        show.say(f"{over} stream{'s' if over > 1 else ''} ended and stored (status --all shows them)", "dim")
    if not facts["streams"]:
        show.say("No streams: nothing has been logged here. Next: trainspool demo, or trainspool doctor")


def _print_problems(problems: list[dict[str, str]]) -> None:
    for problem in problems:
        show.say(f"{problem['where']}: {problem['what'].rstrip('.')}.", "red")
        if problem["next_step"] not in problem["what"]:
            show.say(f"  Next: {problem['next_step']}")


def _print_plain(facts: dict[str, Any]) -> None:
    agent = facts["agent"]
    state = "running" if agent["running"] else "not running"
    show.print_lines([("agent", state, agent.get("pid"), agent.get("version"), agent["log"])])
    show.print_lines(("spool", *(one[key] for key in USAGE_KEYS)) for one in facts["usage"])
    show.print_lines(
        ("artifacts", store, *(one[key] for key in ARTIFACT_KEYS)) for store, one in facts["artifacts"].items()
    )
    keys = "stream", "host", "program", "pid", "life", "written", "in_ring", "stored", "waiting", "lag_ms", "absorbs_s"
    for fact in facts["streams"]:
        show.print_lines(
            [("stream", *(fact[key] for key in keys), sum(points for points, _ in fact["dropped"].values()))]
        )
    show.print_lines(("problem", one["where"], one["what"], one["next_step"]) for one in facts["problems"])


# -- a run ----------------------------------------------------------------------------------------------------------


def _print_run(facts: dict[str, Any]) -> None:
    colour = {"FINISHED": "green", "FAILED": "red", "KILLED": "red"}.get(facts["status"], "yellow")
    show.say(f"run        {facts['name']}  {facts['run_id']}", "bold")
    show.say(f"status     {facts['status']}{_lasted(facts)}", colour)
    show.say(f"experiment {facts['experiment']}")
    if facts["in_store"]:
        show.say(f"store      {facts['path']}")
    else:
        show.say(f"store      not there yet: the run is in the spool only, for {facts['store']}", "yellow")
        show.say("           Next: trainspool sync, or start an agent: trainspool daemon")
    for part in facts["streams"]:
        about = f"{part['program']}, pid {part['pid']} on {part['host']}, " if part.get("pid") else ""
        show.say(f"stream     {part['stream'][:8]}  {about}{part['life']}")
    _print_account(facts)
    _print_artifacts(facts["artifacts"], facts["run_id"])
    for problem in facts["problems"]:
        show.say(problem, "red")


def _lasted(facts: dict[str, Any]) -> str:
    begun, ended = facts["start_time"], facts["end_time"]
    return f" after {show.seconds((ended - begun) / 1000)}" if begun and ended and ended >= begun else ""


def _print_account(facts: dict[str, Any]) -> None:
    account_, others = facts["account"], facts["other_events"]
    rows = [
        ("accepted", show.count(account_["accepted"]), "points that were logged and taken"),
        ("stored", show.count(account_["stored"]), "in the store"),
        ("folded", show.count(account_["folded"]), "the store held them already"),
        ("on the way", show.count(facts["waiting"]["points"]), "in the spool or the ring, not in the store yet"),
        ("refused", show.count(facts["refused"]["points"]), "beyond the store's limits"),
        ("dropped", show.count(account_["dropped"]), "not taken: the ring was full"),
        ("damaged", show.count(account_["damaged"]), "lost to damage on the disk"),
        ("unknown tail", "yes" if account_["unknown_tail"] else "no", "an end that nobody could reach"),
        ("worst lag", show.seconds(account_["worst_lag_ms"] / 1000), "from the log call to the store"),
        ("other events", show.count(others["accepted"]), "params, tags, artifacts, start and end"),
    ]
    always = ("accepted", "stored", "dropped", "other events")
    shown = [row for row in rows if row[0] in always or row[1] not in ("0", "no", "0 ms")]
    show.print_table(("account", ">", ""), shown)


def _print_artifacts(counts: dict[str, Any], run_id: str) -> None:
    if not any((counts["stored"], counts["waiting"], counts["refused"])):
        return
    ways = ", ".join(f"{count:,} {how}" for how, count in sorted(counts["captured"].items()))
    stored = f"{counts['stored']:,} stored, {show.size(counts['bytes'])}{f' ({ways})' if ways else ''}"
    coming = f"; {counts['waiting']:,} on their way, {show.size(counts['waiting_bytes'])}" if counts["waiting"] else ""
    refused = f"; {counts['refused']:,} refused" if counts["refused"] else ""
    show.say(f"artifacts  {stored}{coming}{refused}. Next: trainspool artifacts ls {run_id[:8]}")


def _print_run_plain(facts: dict[str, Any]) -> None:
    keys = "run_id", "name", "status", "experiment", "store", "path"
    show.print_lines((key, facts[key]) for key in keys)
    show.print_lines(facts["account"].items())
    show.print_lines([("waiting", facts["waiting"]["points"]), ("other_events", facts["other_events"]["accepted"])])
    show.print_lines((f"artifacts_{key}", facts["artifacts"][key]) for key in ("stored", "bytes", "waiting", "refused"))
    show.print_lines(("problem", problem) for problem in facts["problems"])
