"""Reading the documentation as its readers do: what it tells them to type, run, make, install and open.

Each `*_problems` function takes a page's Markdown and returns a line for everything in it that is not so.

A block after `<!-- not run: REASON -->` cannot be tried here, for a reason that the page says: of its Python, imports
and what is taken from imported modules are tried all the same (of what is installed); YAML is left alone.
"""

from __future__ import annotations

import ast
import contextlib
import io
import pkgutil
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from grcn.cli.commands import COMMANDS
from grcn.cli.main import main
from grcn.cli.parser import Options, Parser
from grcn.cli.train import read_train_config
from grcn.errors import GrcnError
from grcn.study import read_study

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

GROUPS = {name.split()[0] for name in COMMANDS if " " in name}  # of commands: data, study
STUDIES = {name for name in COMMANDS if name.startswith("study ")}  # these look up what their argument names
_SHELL = ("", "bash", "sh", "shell", "console")
_PLACEHOLDER = re.compile(r" [A-Z]|\.\.\.")


@dataclass(frozen=True)
class Block:
    """A block of code: its language ("" where none is said), what else its fence says, its first line, its text.

    runs: whether it can be tried here.
    """

    language: str
    says: str
    line: int
    text: str
    runs: bool = True

    @property
    def title(self) -> str | None:
        """The file that it is quoted from, where it says so."""
        found = re.search(r'title="([^"]*)"', self.says)
        return found[1] if found else None


class Parsed(BaseException):
    """A command line was read; no Exception, so that the command line's own handlers let it through."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.options = options


def repeated_words(text: str) -> list[str]:
    """Words that stand twice in a row in a page's prose, line ends included; code and tables are no prose."""
    prose = re.sub(r"^( *)```.*?^ *```$|^(?:    |\|).*?$|`[^`]*`", "|", text, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(pair[0].split()) for pair in re.finditer(r"\b([a-z]+)\s+\1\b", prose)]


def blocks(text: str) -> list[Block]:
    """The fenced and the indented blocks of a page, in order."""
    found: list[Block] = []
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        if fence := re.match(r"^( *)(```+)\s*(\w*)(.*)$", lines[at]):
            end = next(
                (n for n in range(at + 1, len(lines)) if lines[n].strip() == fence[2]),
                len(lines),
            )
            indent = len(fence[1])
            inside = [line[indent:] for line in lines[at + 1 : end]]
            above = next((line for line in reversed(lines[:at]) if line.strip()), "")
            runs = not re.fullmatch(r"\s*<!-- not run: \S.* -->", above)
            found.append(Block(fence[3], fence[4], at + 2, "\n".join(inside), runs))
            at = end + 1
        elif lines[at].startswith("    "):
            end = at
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            found.append(Block("", "", at + 1, "\n".join(line[4:] for line in lines[at:end])))
            at = end
        else:
            at += 1
    return found


def prose(text: str) -> str:
    """The page without its blocks of code."""
    text = re.sub(r"^( *)(```+).*?^ *\2\s*$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^    .*$", "", text, flags=re.MULTILINE)


def inline_code(text: str) -> list[str]:
    """What stands between single backticks, line breaks made blanks."""
    return [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(text))]


def commands(text: str) -> Iterator[tuple[int, list[str]]]:
    """Each command of the page's shell blocks, as words, with the line where its block begins."""
    for block in blocks(text):
        if block.language not in _SHELL:
            continue
        for line in re.sub(r"\\\n\s*", " ", block.text).splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            try:
                tokens = list(lexer)
            except ValueError:  # prose with an apostrophe, in a block that is no command
                continue
            words: list[str] = []
            for token in [*tokens, ";"]:
                if not set(token) <= set("();<>|&"):
                    words.append(token)
                    continue
                if words:
                    yield block.line, words
                words = []


def grcn_words(words: list[str]) -> list[str] | None:
    """What follows `grcn`, or `-m grcn`, in a command; None where it is no command of ours."""
    for at, word in enumerate(words):
        if word == "grcn" or word.endswith("/grcn"):
            return words[at + 1 :]
    return None


def read_command(words: list[str]) -> str | None:
    """What is wrong with the words after `grcn`; None where the command's own parser takes them. Nothing is run."""
    if words[:1] == ["train"] and "--help" not in words:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                read_train_config(words[1:])
        except SystemExit as end:  # after --print_config, with 0
            return f"ends with status {end.code}" if end.code else None
        except GrcnError as error:
            return str(error)
        return None
    said, read = io.StringIO(), Parser.read

    def read_and_stop(self: Parser, arguments: list[str], **how: Any) -> Options:
        raise Parsed(read(self, arguments, **how))

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        patch.setattr(Parser, "read", read_and_stop)
        try:
            code = main(words)
        except Parsed as parsed:
            return _study_problem(parsed.options) if words[:1] == ["study"] else None
    return said.getvalue() if code else None


def mention_problem(words: list[str]) -> str | None:
    """What is wrong with the words after `grcn` of a command in prose, which may leave out what the command requires.

    Required arguments are put in, and an option at the end may be without its values.
    """
    problem = read_command(words)
    if (short := re.search(r"argument (\S+): expected", problem or "")) and short[1] == words[-1]:
        words = words[:-1]
        problem = read_command(words)
    if missing := re.search(r"arguments are required: (.+)", problem or ""):
        end = 2 if words[0] in GROUPS else 1
        options = command_options(" ".join(words[:end]))
        for name in missing[1].split(", "):
            value = "onnx" if name == "format" else "context"  # which is also the name of a study
            words = [*words[:end], *([f"--{name}"] if f"--{name}" in options else []), value, *words[end:]]
        problem = read_command(words)
    return problem


def _study_problem(options: Options) -> str | None:
    """What is wrong with the names that a study of the package is asked for."""
    if options.file.endswith(".yaml"):
        return None
    try:
        read_study(options.file).only(options.data, options.get("cells"), options.get("seeds"))
    except GrcnError as error:
        return str(error)
    return None


def command_problems(text: str) -> list[str]:
    """Commands that would not be taken: of grcn, make, pip with our extras, and scripts of this repository."""
    problems = []
    for line, words in commands(text):
        problem = None
        if (ours := grcn_words(words)) is not None and words[0] not in ("pip", "cd", "git"):
            problem = read_command(ours)
        elif words[0] == "make":
            problem = _make_problem(words[1:])
        elif "pip" in words[:3] and "install" in words:
            problem = _extras_problem(" ".join(words))
        elif words[0] in ("python", "python3") and len(words) > 1 and words[1].endswith(".py"):
            problem = _script_problem(words[1], words[2:])
        if problem:
            problems.append(f"line {line}: {shlex.join(words)}: {problem.strip()}")
    return problems


def _make_problem(words: list[str]) -> str | None:
    unknown = {word for word in words if "=" not in word} - targets()
    return f"no target {sorted(unknown)}" if unknown else None


@cache
def targets() -> set[str]:
    """What `make` can make."""
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))


@cache
def extras() -> set[str]:
    """The package's extras."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        return set(tomllib.load(file)["project"]["optional-dependencies"])


def _extras_problem(text: str) -> str | None:
    named = {name.strip() for found in re.findall(r"(?:grcn|\.)\[([\w, -]+)\]", text) for name in found.split(",")}
    return f"no extra {sorted(named - extras())}" if named - extras() else None


def script_options(path: Path) -> set[str]:
    """The options that a script gives to `add_argument`, by its source; it is not run."""
    calls = (n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call))
    return {
        argument.value
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"
        for argument in call.args
        if isinstance(argument, ast.Constant) and str(argument.value).startswith("--")
    }


def _script_problem(script: str, words: list[str]) -> str | None:
    path = ROOT / script
    if not path.is_file():
        return f"no file {script}"
    unknown = {word.split("=")[0] for word in words if word.startswith("--")} - script_options(path) - {"--help"}
    return f"{script} has no {sorted(unknown)}" if unknown else None


@cache
def command_options(name: str) -> set[str]:
    """The options of a command of grcn."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        main([*name.split(), "--help"])
    return set(re.findall(r"--[a-z][\w.-]*", printed.getvalue()))


@cache
def known_options() -> set[str]:
    """Every option of every command of grcn, and of the scripts of the repository."""
    options = {"--debug", "--version"}.union(*map(command_options, COMMANDS))
    for script in [*ROOT.glob("benchmarks/*.py"), *ROOT.glob("docs/**/*.py"), *ROOT.glob("tests/*.py")]:
        options |= script_options(script)
    return options


def inline_problems(text: str) -> list[str]:
    """Commands, options, files and make targets that prose mentions and that are not there."""
    problems = []
    for code in inline_code(text):
        words = code.split()
        if words[0] == "grcn" and len(words) > 1 and re.fullmatch(r"[a-z|]+", words[1]):
            for name in words[1].split("|"):
                name = " ".join([name, *words[2:3]]) if name in GROUPS else name
                known = name in COMMANDS or name in GROUPS or _PLACEHOLDER.search(name)
                problems += [] if known else [f"`{code}`: no command '{name}'"]
                rest = words[1 + len(name.split()) :]
                if name in COMMANDS and rest and not (name in STUDIES and _PLACEHOLDER.search(code)):
                    wrong = mention_problem([*name.split(), *rest])
                    problems += [f"`{code}`: {wrong.strip()}"] if wrong else []
        if words[0] == "make" and len(words) > 1:
            problems += [f"`{code}`: {problem}"] if (problem := _make_problem(words[1:2])) else []
        if words[0] in ("pip", "grcn") and (problem := _extras_problem(code)):
            problems.append(f"`{code}`: {problem}")
        for word in words:
            option = re.match(r"--[a-z][\w.-]*", word) if re.match("python |-|grcn -", code) else None
            if option and option[0].rstrip(".") not in known_options():
                problems.append(f"`{code}`: no command has {option[0]}")
        if problem := _name_problem(code):
            problems.append(f"`{code}`: {problem}")
        if re.fullmatch(r"(src|docs|tests|benchmarks|configs)/[\w./*-]+", code) and not list(
            ROOT.glob(code.rstrip("/"))
        ):
            problems.append(f"`{code}`: no such file")
    return problems


def _name_problem(code: str) -> str | None:
    """What is wrong with a name of the package's, or with a file or method of it; None of other code."""
    if re.fullmatch(r"grcn(\.[A-Za-z_]\w*)+", code):
        try:
            pkgutil.resolve_name(code)
        except (ImportError, AttributeError) as error:
            return f"no such name: {error}"
    if re.fullmatch(r"(?!(src|docs|tests|benchmarks|configs)/)[a-z_]+(/[a-z_]+)*\.py", code) and not any(
        list((ROOT / top).rglob(code)) for top in ("src/grcn", "tests", "benchmarks", "docs")
    ):
        return "no such file"
    if method := re.fullmatch(r"([A-Z]\w+)\.([a-z_]\w*)(\(.*\))?", code):
        owners = members().get(method[1])
        if owners is not None and method[2] not in owners:
            return f"{method[1]} has no {method[2]}"
    return None


@cache
def members() -> dict[str, set[str]]:
    """What each class of the package has, by its name: methods, fields and what its methods set; also its parents'."""
    found: dict[str, set[str]] = {}
    classes = [
        node
        for path in (ROOT / "src/grcn").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    ]
    for node in classes:
        names = {part.name for part in ast.walk(node) if isinstance(part, ast.FunctionDef)}
        names |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
        names |= {
            part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store)
        }
        found[node.name] = found.get(node.name, set()) | names
    for node in classes:
        for base in node.bases:
            found[node.name] |= found.get(ast.unparse(base).rpartition(".")[2], set())
    return found


def link_problems(text: str, page: Path) -> list[str]:
    """Relative links and pictures that lead nowhere, or from a page of the site to what is not in it."""
    problems = []
    site = ROOT / "docs"
    for target in re.findall(r"(?:\]\(|src=\")([^()\s\"]+)[)\"]", prose(text)):
        if re.match(r"[a-z]+:", target) or target.startswith("#"):
            continue
        path = (page.parent / target.split("#")[0]).resolve()
        if not path.exists() and path != site / "reference/cli.md":  # that one is made when the site is built
            problems.append(f"link to {target}: no such file")
        elif page.is_relative_to(site) and not path.is_relative_to(site):
            problems.append(f"link to {target}: not in docs/, so not on the site; write its path as code")
    return problems


def quotation_problems(text: str) -> list[str]:
    """Blocks that name a file and are not in it, line for line."""
    problems = []
    for block in blocks(text):
        if block.title is None:
            continue
        source = (ROOT / block.title).read_text(encoding="utf-8") if (ROOT / block.title).is_file() else ""
        if f"\n{block.text}\n" not in source:
            problems.append(f"line {block.line}: not in {block.title}")
    return problems


def yaml_problems(text: str, folder: Path) -> list[str]:
    """YAML blocks that are neither a study nor a configuration of a training run."""
    problems = []
    for block in blocks(text):
        if block.language != "yaml" or not block.runs:
            continue
        path = folder / "block.yaml"
        path.write_text(block.text, encoding="utf-8")
        try:
            if "cells" in yaml.safe_load(block.text):
                read_study(str(path))
            else:
                read_train_config(["--data", "photos", "--config", str(path)])
        except (GrcnError, yaml.YAMLError) as error:
            problems.append(f"line {block.line}: {error}")
    return problems


def python_blocks(text: str) -> list[Block]:
    """The blocks of Python that a reader can run: all but quotations."""
    return [block for block in blocks(text) if block.language == "python" and block.title is None]


def run_python(text: str, name: str) -> None:
    """Runs a page's blocks one after the other, as someone would who types them into one session.

    Of those that cannot be run here, only the imports, and what is taken from imported modules.
    """
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in python_blocks(text):
        tree = ast.parse("\n" * (block.line - 1) + block.text)
        if not block.runs:
            for node in ast.walk(tree):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    _import(node, name, namespace)
            taken = [ast.Expr(node) for node in ast.walk(tree) if _is_of_module(node, namespace)]
            tree = ast.fix_missing_locations(ast.Module(list(taken), []))
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(tree, name, "exec"), namespace)


def _import(node: ast.Import | ast.ImportFrom, page: str, namespace: dict[str, object]) -> None:
    """Runs an import; a package of others that is not installed here is passed over."""
    try:
        exec(compile(ast.Module([node], []), page, "exec"), namespace)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("grcn", ""):
            raise


def _is_of_module(node: ast.AST, namespace: dict[str, object]) -> bool:
    """Whether `node` is `module.name` or `Class.name` of something that was imported."""
    if (
        not isinstance(node, ast.Attribute)
        or not isinstance(node.value, ast.Name)
        or not isinstance(node.ctx, ast.Load)
    ):
        return False
    return isinstance(namespace.get(node.value.id), ModuleType | type)
