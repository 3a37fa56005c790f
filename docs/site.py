"""Hooks of mkdocs: pages made from the code, and links that lead out of docs/."""

import html
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import Any

import typer
from mkdocs.structure.files import File, Files

import finetune
from finetune.cli.app import app
from finetune.recipe.schema import schema

ROOT = Path(__file__).parents[1]
# Pages of the source tree -> their place on the site.
ROOT_PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!\w+:)([^)#\s]+)(#[^)\s]*)?\)")


def on_config(config: Any) -> Any:
    """The menu, with the methods' pages in order, and pages that it does not name as guides."""
    docs = ROOT / "docs"
    pages = [path.relative_to(docs).as_posix() for path in sorted(docs.rglob("*.md"))]
    methods = sorted(
        (page for page in pages if page.startswith("methods/")),
        key=lambda page: (page != "methods/index.md", page),
    )
    named = {*_places(config["nav"]), *methods}
    others = [page for page in pages if page not in named]
    menu = [dict(item) for item in config["nav"] if methods or "Methods" not in item]
    for item in menu:
        if "Methods" in item:
            item["Methods"] = methods
        if "Guides" in item:
            item["Guides"] = [*item["Guides"], *others]
    config["nav"] = menu
    return config


def _places(menu: Any) -> Iterator[str]:
    """The pages that a menu names."""
    if isinstance(menu, str):
        yield menu
    for item in menu.values() if isinstance(menu, dict) else menu if isinstance(menu, list) else ():
        yield from _places(item)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made from the code, and those that lie above docs/."""
    made = {
        "reference/commands.md": commands_page(),
        "reference/recipe.md": recipe_page(),
        "reference/api.md": api_page(),
    }
    for name, place in ROOT_PAGES.items():
        made[place] = (ROOT / name).read_text(encoding="utf-8")
    for place, text in made.items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Links to files of the source tree: to their page here, or their name alone."""
    here = page.file.src_uri
    source = {place: name for name, place in ROOT_PAGES.items()}.get(here, f"docs/{here}")

    def linked(found: re.Match[str]) -> str:
        text, target, anchor = found.groups("")
        path = normpath(join(dirname(source), target))
        place = ROOT_PAGES.get(path, path.removeprefix("docs/"))
        if files.get_file_from_path(place):
            return f"[{text}]({relpath(place, dirname(here) or '.')}{anchor})"
        # What is nowhere stays, and the strict build says so.
        return f"{text} (`{path}`)" if (ROOT / path).exists() else found[0]

    return _LINK.sub(linked, markdown)


def commands_page() -> str:
    """Every command with its arguments and options, as ``--help`` has them."""
    lines = [
        "# Commands",
        "",
        "`-q` (no progress), `-v` (tracebacks) and `--version` go with every command; "
        "[exit codes](../design.md#decisions) say how it ended.",
    ]
    for name, command in sorted(_commands(typer.main.get_command(app))):
        summary, _, example = inspect.cleandoc(command.help or "").partition("\n\nExample: ")
        lines += ["", f"## finetune {name}", "", " ".join(summary.split())]
        lines += ["", f"    {example}"] if example else []
        lines += ["", "| argument, option | default | meaning |", "|:--|:--|:--|"]
        context = command.make_context(name, [], resilient_parsing=True)
        lines += [_row(item, context) for item in command.params if item.name != "help"]
    return "\n".join(lines) + "\n"


def _commands(group: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{above}{name} ")
        else:
            yield above + name, command


def _row(item: Any, context: Any) -> str:
    names, help = item.get_help_record(context)
    help = re.sub(r"  \[.*\]$", "", help)  # what the columns say
    meaning, _, said = help.partition("Default: ")
    default = said.rstrip(".") or ("required" if item.required else _shown(item.default))
    cells = [f"`{names}`", default, meaning.strip()]
    return _line(cells)


def _line(cells: Iterable[str]) -> str:
    """A row of a table. Code is written as HTML, for Markdown would show the escape of its bars."""
    coded = [re.sub("`([^`]*)`", lambda code: _code(code[1]), cell) for cell in cells]
    return "| " + " | ".join(cell.replace("|", "&#124;<wbr>") for cell in coded) + " |"


def _code(text: str) -> str:
    return f"<code>{html.escape(text)}</code>"


def _shown(default: Any) -> str:
    return "" if default in (None, False, [], ()) else str(default)


def recipe_page() -> str:
    """Every key of a recipe, from its JSON Schema."""
    properties = schema()["properties"]
    lines = [
        "# Recipe keys",
        "",
        "A recipe is a YAML file; every key has a default, so that an empty one is valid. "
        "`finetune run RECIPE.yaml --set KEY=VALUE` sets any of them, dotted where they are "
        "nested. `finetune recipe schema` prints this page's source as JSON Schema for editors. "
        "*By strategy* is what `finetune strategies` lists.",
        "",
        "| key | values | default | meaning |",
        "|:--|:--|:--|:--|",
    ]
    for key, value in properties.items():
        lines.append(_key(key, value))
        for inner in value.get("anyOf", []):
            nested = inner.get("properties", {}) if key not in ("matrix", "search") else {}
            lines += [_key(f"{key}.{name}", item) for name, item in nested.items()]
    return "\n".join(lines) + "\n"


def _key(name: str, value: Mapping[str, Any]) -> str:
    default = f"`{value['default']}`" if "default" in value else "by strategy"
    default = "" if name in ("matrix", "exclude", "search") else default
    cells = [f"`{name}`", _values(value), default, value.get("description", "")]
    return _line(cells)


def _values(value: Mapping[str, Any]) -> str:
    """What is allowed, in words."""
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(map(_values, value["anyOf"])))
    if "const" in value:
        return f"`{value['const']}`"
    choices = value.get("enum", [])
    if len(choices) > 8:
        return "a name"
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    kinds = {"object": "a table", "array": "a list", "string": "text", "null": "nothing"}
    kind = kinds.get(value.get("type", ""), value.get("type", ""))
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return " ".join([kind, *(f"{sign} {value[k]:g}" for k, sign in bounds.items() if k in value)])


def api_page() -> str:
    """The public names, from their docstrings."""
    names = [name for name in finetune.__all__ if name not in ("Reporter",)]
    intro = (
        "# Python API\n\nThe commands are functions: `import finetune as ft`, then "
        '`ft.run(data="photos")` is `finetune run --data photos`.\n'
    )
    return intro + "".join(
        f"\n::: finetune.{finetune._HOMES[name]}.{name}\n" for name in sorted(names)
    )
