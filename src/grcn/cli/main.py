"""The command line: `grcn COMMAND ...`. Errors are one line on standard error; --debug adds the traceback.

Exit codes are those of `grcn.errors`: 0 done, 1 unexpected, 2 wrong usage or configuration, 3 data, 4 image,
5 annotation, 6 checkpoint, 7 diverged, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import difflib
import sys
import traceback
from collections.abc import Sequence

from grcn.cli.commands import COMMANDS, GROUPS
from grcn.cli.streams import lasting_streams
from grcn.errors import CheckpointError, ConfigError, GrcnError, Interrupted, met_open_files_limit, missing_part


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code.

    Args:
        arguments: the arguments without the program's name; None: those of this process.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in argv
    with lasting_streams() as out:
        code = _run([argument for argument in argv if argument != "--debug"], debug)
        out.flush()
        if isinstance(out.error, BrokenPipeError):  # as in `grcn models | head`
            return code or 141
        if out.error is not None:
            lost = f"standard output cannot be written: {out.error.strerror}; the rest is done"
            return code or _fail(f"error: {lost}", CheckpointError.exit_code)
    return code


def _run(argv: list[str], debug: bool) -> int:
    try:
        return _dispatch(argv)
    except SystemExit as stop:  # after --help and --print_config
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except Exception as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, ModuleNotFoundError):
            error = missing_part(error) or error
        hint = _remedy(error)
        if isinstance(error, GrcnError):
            start = "" if isinstance(error, Interrupted) else "error: "
            return _fail(f"{start}{error}{hint}", error.exit_code)
        if not hint and not debug:
            hint = " (run with --debug for the traceback)"
        return _fail(f"error: {type(error).__name__}: {error}{hint}", 1)


def _remedy(error: Exception) -> str:
    """A hint on the limit of open files, for an error that comes from it but does not say so."""
    if not met_open_files_limit(error) or "ulimit" in str(error):
        return ""
    return f"; the limit of open files is too low{_limit()}: raise it (ulimit -n)"


def _limit() -> str:
    try:
        import resource
    except ImportError:  # Windows
        return ""
    return f" ({resource.getrlimit(resource.RLIMIT_NOFILE)[0]})"


def _fail(message: str, code: int) -> int:
    print(f"grcn: {' '.join(message.split())}", file=sys.stderr)
    return code


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if argv[0] == "--version":
        from grcn import __version__

        print(f"grcn {__version__}")
        return 0
    grouped = f"{argv[0]} " in _EXAMPLES
    if grouped and (len(argv) == 1 or argv[1] in ("-h", "--help")):
        print(_overview(f"{argv[0]} "))
        return 0
    name = " ".join(argv[: 2 if grouped else 1])
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        raise ConfigError(f"unknown command '{name}'; " + (f"did you mean '{near[0]}'?" if near else "try grcn --help"))
    return COMMANDS[name].run(argv[len(name.split()) :])


def _overview(prefix: str = "") -> str:
    parts = []
    for title, group in GROUPS.items():
        rows = [f"  {name:15}{command.summary}" for name, command in group.items() if name.startswith(prefix)]
        parts += ["\n".join([f"{title}:", *rows])] if rows else []
    listed = "\n\n".join(parts)
    return f"""usage: grcn {prefix}COMMAND [options]

Trains object detectors on your own labelled photos, measures how good they are,
and finds objects with them.

{listed}

`grcn {prefix}COMMAND --help` explains a command, with an example.
With --debug, an error shows its traceback.

example:
{_EXAMPLES[prefix]}"""


_EXAMPLES = {
    "": """\
  grcn train --data photos --minutes 30 --out runs/photos
  grcn evaluate runs/photos --data photos
  grcn predict runs/photos holiday/*.jpg --out found""",
    "data ": "  grcn data generate beach",
    "study ": "  grcn study run context --data embedded\n  grcn study table context",
}
