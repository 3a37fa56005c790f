"""Recipe files as text: strict YAML to plain settings, and the line of each key for whoever has to find a mistake."""

import re
from pathlib import Path
from typing import Any

import yaml

from finetune.errors import UsageError

_MAX_CHARACTERS = 2**16  # a recipe is a page; anything larger is a mistake or an attack


def read(path: Path) -> str:
    """A recipe file's text; UsageError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} cannot be read as a recipe: {error}. Give the path of a YAML file."
        ) from error


class _Loader(yaml.SafeLoader):
    """YAML without aliases (so no bomb can grow), without repeated keys, and with 1e-5 as the number that it is."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(
                problem="aliases (*name) are not allowed", problem_mark=self.peek_event().start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key '{key.value}' stands twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# YAML 1.1, which PyYAML reads, wants a dot in 1.0e-5 and takes 1e-5 for text; YAML 1.2 does not.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d[\d_]*[eE][-+]?\d+$"), list("-+0123456789")
)


def parse(text: str, source: str) -> tuple[dict[str, Any], dict[tuple, int]]:
    """Parse YAML text.

    Returns:
        The settings, and the line (from 1) of each key by its path.

    Raises:
        UsageError: no YAML, no mapping, an alias, a tag, or a key that stands twice.
    """
    if len(text) > _MAX_CHARACTERS:
        raise UsageError(
            f"{source}: {len(text):,} characters; a recipe is at most {_MAX_CHARACTERS:,}."
        )
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        settings = loader.construct_document(node) if node else {}
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{source}{line}: {error.problem}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{source}: {' '.join(str(error).split()) or 'nested too deeply'}"
        ) from error
    if not isinstance(settings, dict):
        raise UsageError(f"{source}: expected `key: value` lines, found {type(settings).__name__}.")
    return settings, _lines(node) if node else {}


def _lines(node: yaml.Node, path: tuple = ()) -> dict[tuple, int]:
    if not isinstance(node, yaml.MappingNode):
        return {}
    found = {}
    for key, value in node.value:
        found[(*path, key.value)] = key.start_mark.line + 1
        found |= _lines(value, (*path, key.value))
    return found
