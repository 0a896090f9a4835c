"""The parser of the command line: jsonargparse, with errors of one line that suggest the nearest key.

jsonargparse provides typed options from dataclasses, `--config` (a YAML file, which the command line overrides) and
`--print_config`. Nothing here imports torch or numpy, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import difflib
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import jsonargparse
import yaml

from grcn.errors import ConfigError

Options = jsonargparse.Namespace
Group = argparse._ArgumentGroup
_METAVARS = {"data": "DIR", "out": "DIR", "train_split": "NAME", "val_split": "NAME", "preset": "NAME"}
"""Names for the values of options that come from a configuration, as other commands call them."""
MAX_DEPTH = 50
"""The largest number of nested levels in a value or a file; a configuration has four."""

_load = jsonargparse.get_loader("yaml")


def _load_shallow(text: str) -> Any:
    """jsonargparse's YAML loader with a limit on nesting, since libyaml recurses and could crash the process."""
    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        opens, closes = (isinstance(event, k) for k in (yaml.CollectionStartEvent, yaml.CollectionEndEvent))
        depth += opens - closes
        if depth > MAX_DEPTH:
            raise yaml.YAMLError(f"nested more than {MAX_DEPTH} levels deep")
    return _load(text)


jsonargparse.set_loader("yaml", _load_shallow, exceptions=(yaml.YAMLError,))


class _HelpFormatter(jsonargparse.DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """jsonargparse's help with line breaks kept, types left out, short names for values, and every default."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = re.sub(r"(?<!\.)\.$", "", action.help or "")
        if not action.option_strings or action.nargs == 0 or action.default is argparse.SUPPRESS or "default:" in text:
            return text
        return f"{text} ({'required' if action.required else f'default: {_shown(action)}'})"

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        kind = self._get_type_str(action) or ""
        if name := "N" if "int" in kind else "X" if "float" in kind else _METAVARS.get(action.dest):
            return name
        return super()._get_default_metavar_for_optional(action)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        text = super()._format_args(action, default_metavar)
        return re.sub(r"^(.*) \[\1 \.\.\.\]$", r"\1 ...", text)


def _shown(action: argparse.Action) -> str:
    """The default of an option, as one types it."""
    default = action.default
    if isinstance(default, (list, tuple)):
        return " ".join(map(str, default)) if action.nargs else f"[{','.join(map(str, default))}]"
    if isinstance(default, bool) or default is None:
        return {True: "true", False: "false", None: "null"}[default]
    return f"{default:g}" if isinstance(default, float) else str(default) or "''"


class Parser(jsonargparse.ArgumentParser):
    """The parser of one subcommand. Its options are in groups with headings; the options of every command come last.

    Args:
        command: the subcommand's words, such as `data generate`.
        usage: what follows the command in the usage line.
        description: one paragraph.
        example: a command to copy; several lines where one is not enough.
    """

    def __init__(self, command: str, usage: str, description: str, example: str) -> None:
        super().__init__(
            prog=f"grcn {command}",
            usage=f"grcn {command} {usage}",
            description=textwrap.fill(description, 79),
            epilog="example:\n" + "\n".join(f"  {line}" for line in example.splitlines()),
            formatter_class=_HelpFormatter,
            exit_on_error=False,
            allow_abbrev=False,
        )
        self._optionals.title = "general"
        self.add_argument(
            "--config",
            action="config",
            metavar="FILE",
            help="YAML file of options, which the command line overrides; default: no file",
        )
        help_of = {action.dest: action for action in self._actions}
        help_of["help"].help = "show this help and exit"
        help_of["print_config"].help = "print all options as a file for --config, and exit"

    def add_part(self, part: type, key: str, titles: Mapping[str, str], default: str = "") -> None:
        """Adds the fields of a configuration, and of those within it, as `--KEY.FIELD`.

        Args:
            part: a dataclass.
            key: its key.
            titles: the heading for the key, and for each key within it.
            default: where the defaults come from, if not from the dataclass.
        """
        self.add_class_arguments(part, key)
        groups = self.groups or {}
        for name, title in titles.items():
            group = groups[name]
            group.title = title
            if default:
                for action in group._group_actions:
                    action.help = f"{(action.help or '').rstrip('.')}; default: {default}"
            whole = self._option_string_actions[f"--{name}"]
            whole.metavar, whole.help = "FILE", "YAML file of the options in this group"

    def read(self, arguments: Sequence[str], *, defaults: bool = True) -> Options:
        """Parses the options of a command line.

        Args:
            defaults: include the options that are not given, with their defaults.

        Raises:
            ConfigError: on anything that cannot be parsed, in one line.
            SystemExit: after `--help` or `--print_config`.
        """
        self._action_groups = sorted(self._action_groups, key=lambda group: group is self._optionals)  # general: last
        try:
            return self.parse_args(list(arguments), defaults=defaults)
        except Exception as error:  # any error of the parser comes from a wrong command line
            raise ConfigError(self._explain(one_line(error))) from error

    def _explain(self, message: str) -> str:
        """The parser's message in words of the user, with the nearest key for an unknown one."""
        if found := re.search(r"[Uu]nrecognized arguments: (.*)", message):
            words = found[1].split()
            unknown = next((word.split("=")[0] for word in words if word.startswith("--")), None)
            if unknown is None:
                return f"unexpected argument '{words[0]}'; `{self.prog} --help` lists the options"
            return f"unknown option '{unknown}'{self._nearest(unknown)}"
        if found := re.search(r"Group '(.*)' does not accept option '(.*)'", message):
            return f"unknown key '{found[1]}.{found[2]}'{self._nearest(f'{found[1]}.{found[2]}')}"
        if found := re.search(r"Option '(.*)' is not accepted", message):
            return f"unknown key '{found[1]}'{self._nearest(found[1])}"
        message = re.sub(r"^Parser key \"([^\"]*)\": ", r"\1: ", message)
        message = re.sub(r"Expected an? (?:<class '(\w+)'>|typing\.)", lambda m: f"expected {m[1] or ''}", message)
        # Of several types: `expected float or null, found fast`
        if found := re.search(r"(.*)Does not validate .* Errors:(.*) Given value type: .*? Given value: (.*)", message):
            types = [re.sub(r"Literal\[(.*)\]", r"one of \1", kind) for kind in found[2].split(" - expected ")[1:]]
            types = [kind for kind in types if kind != "NoneType"] + ["null"] * ("NoneType" in types)
            message = f"{found[1]}expected {' or '.join(types)}, found {found[3]}"
        return re.sub(r"\. Got value: ", ", found ", message)

    def _nearest(self, unknown: str) -> str:
        """`; did you mean ...?` with the option nearest to `unknown`, in the same spelling (with or without --).

        The nearest option is one that ends in it (`lr` for `optim.lr`), or else one that begins with it, or else one
        with a similar spelling.
        """
        key = unknown.lstrip("-")
        names = [name[2:] for action in self._actions for name in action.option_strings if name.startswith("--")]
        near = [name for name in names if name.endswith(f".{key}")] + [name for name in names if name.startswith(key)]
        near += difflib.get_close_matches(key, names, n=1)
        if not near:
            return f"; `{self.prog} --help` lists the options"
        return f"; did you mean '{'--' if unknown.startswith('--') else ''}{near[0]}'?"


def one_line(error: Any) -> str:
    """The message of an error in one line: each run of white space, including line breaks, becomes one blank."""
    return " ".join(str(error).split()) or type(error).__name__
