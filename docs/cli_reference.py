"""A hook of mkdocs: the page reference/cli.md, made of what each command says to --help when the site is built."""

from __future__ import annotations

import contextlib
import io
import os

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from grcn.cli.commands import COMMANDS
from grcn.cli.main import main

INTRODUCTION = """\
# Command line

What `grcn COMMAND --help` prints, of every command. Options of `grcn train` may also stand in a YAML file
([configuration](config.md)); `--debug`, with any command, shows tracebacks.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | unexpected: please report it |
| 2 | wrong usage or configuration |
| 3, 4, 5 | data set, image, annotation: `grcn check` exits with that of the worst defect |
| 6 | weights or checkpoint |
| 7 | training diverged |
| 130, 143 | stopped by Ctrl-C, by SIGTERM; training has saved its state |
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the page to the site's files."""
    files.append(File.generated(config, "reference/cli.md", content=page()))
    return files


def page() -> str:
    """The page as Markdown."""
    sections = [INTRODUCTION]
    for name, command in COMMANDS.items():
        sections.append(
            f"## grcn {name}\n\n{command.summary[0].upper()}{command.summary[1:]}.\n\n```text\n{_help(name)}```\n"
        )
    return "\n".join(sections)


def _help(name: str) -> str:
    """What a command prints to --help on a terminal of 80 columns."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "80"
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            main([*name.split(), "--help"])
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    return printed.getvalue().replace(" \b", "")  # jsonargparse backspaces over the blank after --print_config
