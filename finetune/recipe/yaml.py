"""Recipe files as text: strict YAML to plain settings, and the line of each key."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, Event
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from finetune.errors import UsageError

_MAX_CHARACTERS = 2**16  # a recipe is a page; anything larger is a mistake or an attack
_DEEPEST = 20  # levels of lists and tables
_MOST_DIGITS = 100  # Python writes no integer of more than 4,300
_KINDS = ("null", "bool", "int", "float", "str", "seq", "map")

Lines = dict[tuple, int]


def read(path: Path) -> str:
    """A recipe file's text; UsageError if it cannot be read."""
    if path.is_dir():
        raise UsageError(
            f"{path} is a folder, and a recipe is a YAML file. To train on the photos in it: "
            f"`finetune run --data {path}`."
        )
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(_MAX_CHARACTERS + 1)  # one too many is refused by ``parse``
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is no text, and a recipe is a YAML file. To train: "
            "`finetune run --data FOLDER`; to classify a photo: `finetune predict RUN PHOTO`."
        ) from error
    except FileNotFoundError as error:
        raise UsageError(
            f"{path} does not exist. Give the path of a YAML file, or --data FOLDER."
        ) from error
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read as a recipe: {error}. Give the path of a YAML file."
        ) from error


def parse(text: str, source: str) -> tuple[dict[str, Any], Lines]:
    """Parse YAML 1.2.

    Returns:
        The settings, and the line (from 1) of each key by its path.

    Raises:
        UsageError: no YAML, no mapping, an alias, a tag, a date, a key that is no text or that
            stands twice.
    """
    if len(text) > _MAX_CHARACTERS:
        raise UsageError(
            f"{source}: more characters than a recipe may have, at most {_MAX_CHARACTERS:,}."
        )
    yaml = YAML(typ="safe", pure=True)
    try:
        _refuse_bombs(yaml.parse(text))
        node = yaml.compose(text)
        lines: Lines = {}
        if node is not None:
            _look(node, (), lines)
        settings = yaml.constructor.construct_document(node) if node is not None else {}
    except DuplicateKeyError as error:
        key = str(error.problem).split('"')[1]
        raise UsageError(f"{_place(source, error)}: key '{key}' stands twice.") from error
    except MarkedYAMLError as error:
        raise UsageError(f"{_place(source, error)}: {error.problem}.") from error
    except (YAMLError, ValueError) as error:
        raise UsageError(f"{source}: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise UsageError(f"{source}: expected `key: value` lines, found {type(settings).__name__}.")
    return settings, lines


def dump(settings: dict[str, Any]) -> str:
    """Settings as YAML, in their order."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    text = io.StringIO()
    yaml.dump(settings, text)
    return text.getvalue()


def _refuse_bombs(events: Iterable[Event]) -> None:
    """Aliases, and nesting that no recipe needs, are refused before anything is built of them."""
    depth = 0
    for event in events:
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > _DEEPEST:
            raise _mistake(f"nested too deeply; allowed are {_DEEPEST} levels", event)
        if isinstance(event, AliasEvent):
            raise _mistake("aliases (*name) are not allowed", event)


def _look(node: Node, path: tuple, lines: Lines) -> None:
    """Note the line of each key, and refuse what no recipe needs."""
    kind = str(node.tag).removeprefix("tag:yaml.org,2002:")
    if kind == "timestamp":
        raise _mistake(f"{node.value} is a date; put it in quotes if text is meant", node)
    if kind not in _KINDS:
        raise _mistake(f"could not determine a constructor for the tag {node.tag}", node)
    if kind == "int" and len(node.value) > _MOST_DIGITS:
        raise _mistake(f"a number of {len(node.value):,} digits; allowed are {_MOST_DIGITS}", node)
    if not isinstance(node, MappingNode):
        for item in node.value if isinstance(node.value, list) else ():
            _look(item, path, {})
        return
    for key, value in node.value:
        if not isinstance(key, ScalarNode):
            raise _mistake("a key is a list or a table; keys are words, as in seed: 1", key)
        _look(key, path, {})
        if key.tag != "tag:yaml.org,2002:str":
            raise _mistake(f"the key {key.value} is no text; keys are words, as in seed: 1", key)
        lines[(*path, key.value)] = key.start_mark.line + 1
        _look(value, (*path, key.value), lines)


def _mistake(problem: str, node: Node | Event) -> MarkedYAMLError:
    return MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def _place(source: str, error: MarkedYAMLError) -> str:
    return f"{source}:{error.problem_mark.line + 1}" if error.problem_mark else source
