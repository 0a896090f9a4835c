"""What `--help` shows of each command: options under headings, every default, an example, and nothing too wide."""

from __future__ import annotations

import argparse
import contextlib
import io
import re

import pytest

from grcn.cli.commands import COMMANDS
from grcn.cli.main import main
from grcn.cli.parser import Options, Parser
from grcn.config import DetectorConfig, TrainConfig, to_dict

each_command = pytest.mark.parametrize("command", COMMANDS)


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def help_of(command: str) -> tuple[Parser, str]:
    """The parser of a command, and what it prints to `--help`."""
    parsers: list[Parser] = []
    read = Parser.read

    def keep(self: Parser, arguments: list[str], *, defaults: bool = True) -> Options:
        parsers.append(self)
        return read(self, arguments, defaults=defaults)

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setattr(Parser, "read", keep)
        assert main([*command.split(), "--help"]) == 0
    return parsers[0], printed.getvalue()


def shown(actions: list[argparse.Action]) -> list[argparse.Action]:
    """Without those that are hidden: jsonargparse has one if shtab is installed."""
    return [action for action in actions if action.help != argparse.SUPPRESS]


@each_command
def test_every_option_is_under_a_heading_of_the_command(command: str) -> None:
    parser, text = help_of(command)
    titles = [group.title for group in parser._action_groups if shown(group._group_actions)]
    assert len(titles) == len(set(titles)) >= 3
    assert not {"options", "optional arguments", "positional arguments", None} & set(titles)
    assert re.findall(r"^(\S.*):$", text, flags=re.MULTILINE) == [*titles, "example"]
    dests = [action.dest for group in parser._action_groups for action in shown(group._group_actions)]
    assert sorted(dests) == sorted(action.dest for action in shown(parser._actions))
    assert (titles[-1], dests[-3:]) == ("general", ["help", "config", "print_config"])


@pytest.mark.parametrize("words", ["", "data", "study", *COMMANDS])
def test_a_help_fits_80_columns(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words.split(), "--help"]) == 0
    text = capsys.readouterr().out.replace(" \b", "")
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert "%%" not in text


@each_command
def test_every_option_has_a_description_and_its_default(command: str) -> None:
    parser, text = help_of(command)
    entries = re.split(r"\n(?=  \S)|\n\n", text)
    for action in shown(parser._actions):
        assert action.help, action.dest
        if not action.option_strings or action.nargs == 0 or action.default is argparse.SUPPRESS:
            continue
        (entry,) = (e for e in entries if re.match(rf"  {re.escape(action.option_strings[0])}[ ,\n]", e))
        entry = " ".join(entry.split())
        assert ("(required)" in entry) if action.required else ("default: " in entry), entry


@each_command
def test_a_help_ends_with_an_example_of_the_command(command: str) -> None:
    _, text = help_of(command)
    assert text.count("example:") == 1
    assert text.split("example:\n")[1].startswith(f"  grcn {command}")


def test_train_has_an_option_for_each_field_of_its_configuration() -> None:
    def names(values: dict, prefix: str = "") -> set[str]:
        deeper = (names(value, f"{prefix}{key}.") | {prefix + key} if isinstance(value, dict) else {prefix + key}
                  for key, value in values.items())  # fmt: skip
        return set().union(*deeper)

    parser, _ = help_of("train")
    given = {action.dest for action in shown(parser._actions)}
    assert given - {"help", "config", "print_config"} == names(to_dict(TrainConfig("x", model=DetectorConfig())))


def test_train_calls_values_as_other_commands_do() -> None:
    _, text = help_of("train")
    for option in ("--data DIR", "--train_split NAME", "--val_split NAME", "--preset NAME", "--out DIR"):
        assert f"\n  {option} " in text or f"\n  {option}\n" in text, option
