"""The documentation: its commands exist and run, its site builds strictly and asks nobody else."""

import functools
import http.server
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import typer

from finetune.cli.app import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [DOCS / "index.md", *sorted(DOCS.glob("guides/*.md"))]
_BLOCK = re.compile(r"^(<!-- not run: (.+) -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """(why it is not run or "", language, text) of each fenced block."""
    return [found.group(2, 3, 4) for found in _BLOCK.finditer(page.read_text(encoding="utf-8"))]


def lines(page: Path) -> list[str]:
    """Every line of a page that begins with the command."""
    text = page.read_text(encoding="utf-8").replace("\\\n", "")
    found = re.findall(r"^ *(finetune [a-z].*)$", text, re.MULTILINE)
    return [re.split(r" {2,}#| #| > | \| |\$\(", line)[0] for line in found]


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=name)
def test_the_commands_of_a_page_are_commands_with_these_options(page):
    group = typer.main.get_command(app)
    for line in lines(page):
        context = group.make_context("finetune", shlex.split(line)[1:], resilient_parsing=False)
        words = [*context._protected_args, *context.args]
        command = group
        while hasattr(command, "commands"):
            _, command, words = command.resolve_command(context, words)
        command.make_context(command.name, words, parent=context)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_says_whether_it_is_run(page):
    assert [text for why, language, text in blocks(page) if language != "bash" and not why] == []


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """What the guides take for granted: photos, and the source tree's recipes."""
    from finetune.data.sketches import write_sketches

    folder = tmp_path_factory.mktemp("docs")
    write_sketches(folder / "drawn", seed=1)
    for label in ("cats", "dogs"):
        files = sorted((folder / "drawn/train" / label).iterdir())
        for place, chosen in (("photos", files[:24]), ("other-photos", files[24:34])):
            (folder / place / label).mkdir(parents=True)
            for file in chosen:
                shutil.copy(file, folder / place / label)
    (folder / "more-photos").mkdir()
    for file in files[40:44]:
        shutil.copy(file, folder / "more-photos")
    shutil.copy(files[45], folder / "photo.jpg")
    (folder / "recipes").symlink_to(ROOT / "recipes")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_commands_of_a_page_run_in_their_order(page, workplace, tmp_path):
    for place in workplace.iterdir():
        (tmp_path / place.name).symlink_to(place)
    script = "\n".join(text for why, _, text in blocks(page) if not why)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


# The site


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(folder)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def address(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=site)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_the_references_name_every_command_and_key(site):
    from finetune.recipe.schema import schema

    commands = (site / "reference/commands/index.html").read_text(encoding="utf-8")
    group = typer.main.get_command(app)
    assert [word for word in group.commands if f"finetune {word}" not in commands] == []
    keys = (site / "reference/recipe/index.html").read_text(encoding="utf-8")
    assert [key for key in schema()["properties"] if f"<code>{key}</code>" not in keys] == []


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_fit_the_window_and_ask_no_other_server(browser, site, address, width):
    pages = sorted(path.parent.relative_to(site).as_posix() for path in site.rglob("index.html"))
    assert len(pages) > 15
    browser.set_window_size(width, 900)
    wide = {}
    for page in pages:
        browser.get(address if page == "." else f"{address}{page}/")
        over = browser.execute_script(
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        asked = browser.execute_script(
            "return performance.getEntriesByType('resource').map(entry => entry.name)"
        )
        assert [name for name in asked if not name.startswith(address)] == []
        wide |= {page: over} if over > 1 else {}
    assert wide == {}
    severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert severe == []
