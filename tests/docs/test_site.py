"""The site as it is built: without warnings, with every page and name, self-contained, and shown by a browser."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import griffe
import pytest
import yaml

import grcn
from grcn.cli.commands import COMMANDS

ROOT = Path(__file__).parents[2]
CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # an announcement of the theme's authors
    done = subprocess.run(words, cwd=ROOT, env=quiet, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return out


def pages(site: Path) -> list[str]:
    return sorted(str(page.relative_to(site)) for page in site.rglob("*.html") if page.name != "404.html")


def test_every_page_is_built(site: Path) -> None:
    sources = [page.relative_to(ROOT / "docs") for page in (ROOT / "docs").rglob("*.md")]
    expected = {str(s.with_name("index.html") if s.name == "README.md" else s.with_suffix(".html")) for s in sources}
    as_they_are = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.html")}
    assert set(pages(site)) == expected | as_they_are | {"reference/cli.html"}


def test_the_reference_has_every_command_and_public_name(site: Path) -> None:
    commands = (site / "reference/cli.html").read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f"usage: grcn {name} " in commands
    assert "--model.cls_stride" in commands
    names = (site / "reference/python.html").read_text(encoding="utf-8")
    names += (site / "reference/config.html").read_text(encoding="utf-8")
    for name in grcn.__all__:
        assert re.search(rf'id="grcn[\w.]*\.{name}"', names), name


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    """Links to other places are fine; fonts, styles, scripts and pictures of theirs are not."""
    loads = re.compile(
        r"""<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc=["']?(?:https?:)?//|"""
        r"""<link\b(?=[^>]*\brel=["']?(?:stylesheet|preconnect|preload|icon|dns-prefetch))[^>]*href=["']?(?:https?:)?//|"""
        r"""url\(["']?(?:https?:)?//|@import\s+["'](?:https?:)?//"""
    )
    assert loads.search('<script src="https://unpkg.com/x">')
    assert loads.search('<link rel="stylesheet" href="https://fonts.googleapis.com/css">')
    assert not loads.search('<a href="https://arxiv.org">')
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        assert not (found := loads.search(path.read_text(encoding="utf-8"))), f"{path}: {found[0]}"


def test_figures_and_short_code_stay_in_one_line(site: Path) -> None:
    page = (site / "performance.html").read_text(encoding="utf-8")
    assert re.search(r'<td class="figure"[^>]*>0\.85</td>', page)
    assert '<code class="short">make bench</code>' in page
    assert not re.search(r'<td class="figure"[^>]*>[a-z]', page)


def test_docstrings_name_the_arguments_that_there_are() -> None:
    """mkdocstrings' own check is off, since it takes `height, width: ...` for the name of one argument."""
    package = griffe.load("grcn", search_paths=[ROOT / "src"])
    assert wrong_arguments(package) == []
    with griffe.temporary_visited_module('def f(a, b):\n    """F.\n\n    Args:\n        a, c: both.\n    """\n') as bad:
        assert wrong_arguments(bad) == ["module.f: c"]


def wrong_arguments(thing: griffe.Object) -> list[str]:
    """`path: argument` of every argument in a docstring that the function or class does not take."""
    found = []
    for member in thing.members.values():
        if member.is_alias or not isinstance(member, griffe.Module | griffe.Class | griffe.Function):
            continue
        if not member.is_function:
            found += wrong_arguments(member)
        if member.docstring is None or member.is_module:
            continue
        taken = {parameter.name.lstrip("*") for parameter in member.parameters} | set(member.members)
        for section in member.docstring.parse("google", warnings=False):
            if section.kind is griffe.DocstringSectionKind.parameters:
                named = {name.strip("* ") for argument in section.value for name in argument.name.split(",")}
                found += [f"{member.path}: {name}" for name in sorted(named - taken)]
    return found


@pytest.fixture(scope="module")
def served(site: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.skipif(not CHROMIUM.exists(), reason="no Chromium")
@pytest.mark.parametrize("records", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_browser_shows_every_page(site: Path, served: str, records: bool) -> None:
    """Each page, as wide as a phone: no error, nothing missing, nothing from elsewhere, no wider than the screen.

    Those that are records, of decisions and of studies, are in the slow lane.
    """
    from playwright.sync_api import sync_playwright

    wrong: list[str] = []
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.on("console", lambda message: message.type == "error" and wrong.append(f"{page.url}: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"{page.url}: {error}"))
        page.on("response", lambda r: r.status >= 400 and wrong.append(f"{page.url}: {r.status} {r.url}"))
        page.on("request", lambda r: r.url.startswith((served, "data:")) or wrong.append(f"{page.url}: loads {r.url}"))
        for path in pages(site):
            if path.startswith(("adr/", "results/studies/")) != records:
                continue
            page.goto(f"{served}/{path}")
            assert page.locator("h1").first.inner_text()
            wider = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            if wider > 0:
                wrong.append(f"{path}: {wider} px wider than a phone")
        # The menu that leads on is there, on a phone in a drawer, and so is the search.
        page.goto(f"{served}/index.html")
        page.locator(".md-header label[for=__drawer]").click()
        page.locator(".md-nav--primary").get_by_text("Tutorials").first.wait_for(state="visible", timeout=10_000)
        browser.close()
    assert wrong == []


def test_the_navigation_names_each_page_once() -> None:
    class Loader(yaml.SafeLoader):
        """mkdocs.yml may have tags of its own; none is followed here."""

    def flat(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        values = entry.values() if isinstance(entry, dict) else entry
        return [name for value in values for name in flat(value)]

    names = flat(yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)["nav"])
    assert len(names) == len(set(names))
