"""What holds for every command."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from trainspool_agent.cli import COMMANDS, main


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_has_an_example(name: str) -> None:
    found = CliRunner().invoke(main, [name, "--help"])
    assert found.exit_code == 0 and "Example:" in found.stdout and f"trainspool {name}" in found.stdout


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_an_unknown_option_is_a_usage_error(name: str) -> None:
    assert CliRunner().invoke(main, [name, "--no-such-option"]).exit_code == 2


def test_the_group_imports_a_command_when_it_is_asked_for() -> None:
    assert isinstance(main, click.Group)
    assert main.get_command(click.Context(main), "no-such-command") is None
