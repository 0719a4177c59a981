"""The trainspool command line: parse, call, print, exit status; no logic.

Each subcommand is imported when it is called, so `trainspool --help` and an autostarted daemon load little.
"""

from __future__ import annotations

from importlib import import_module

import click

COMMANDS = {
    "artifacts": (
        "trainspool_agent.cli.artifacts:artifacts",
        "List a run's artifacts and where they are; copy them.",
    ),
    "demo": ("trainspool_agent.cli.demo:demo", "A real small training, logged live, and its result on screen."),
    "daemon": ("trainspool_agent.cli.daemon:daemon", "Run the agent in the foreground, for systemd and containers."),
    "cat": ("trainspool_agent.cli.cat:cat", "Print events as JSON lines."),
    "doctor": ("trainspool_agent.cli.doctor:doctor", "Check whether this box is set up well."),
    "export": ("trainspool_agent.cli.export:export_command", "Make an MLflow database of a store, and count it."),
    "gc": ("trainspool_agent.cli.gc:gc", "Delete from the spool what the store has for good, by age and size."),
    "ls": ("trainspool_agent.cli.listing:ls", "List streams and segments."),
    "relocate": (
        "trainspool_agent.cli.relocate:relocate_command",
        "Mend the artifact addresses of a store that was copied or moved.",
    ),
    "replay": ("trainspool_agent.cli.replay:replay", "Build a store again, or another one, from what was spooled."),
    "run": ("trainspool_agent.cli.run:run", "Run a command as a tracked run."),
    "status": ("trainspool_agent.cli.status:status", "Show the agent, its streams and problems; or a run's account."),
    "sync": ("trainspool_agent.cli.sync:sync", "Carry over what is there, orphans included, then leave."),
    "tail": ("trainspool_agent.cli.tail:tail", "Follow what is being logged, live."),
    "verify": ("trainspool_agent.cli.verify:verify_command", "Check every frame; say what is damaged, what survives."),
}
"""name → where it is, what it does in a line"""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, function = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), function)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="trainspool", prog_name="trainspool")
def main() -> None:
    """A flight recorder for training runs: what was logged, lands in the store.

    \b
    Example: trainspool run -e mnist -- python train.py
    """
