"""The project keeps its own rules: commands that run, exact pins, recipes that parse, imports that
point backwards.
"""

import ast
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
MODULES = {
    path.relative_to(ROOT)
    .with_suffix("")
    .as_posix()
    .removesuffix("/__init__")
    .replace("/", "."): path
    for path in sorted((ROOT / "finetune").rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}

# The layers of the package: a module imports from its own layer and from those before it, and never
# from a later one.
LAYERS = (
    "errors",
    "disk",
    "files progress backend",
    "data model",
    "recipe",
    "activations",
    "training",
    "evaluation",
    "runs",
    "serving",
    "report",
    "execution",
    "commands",
    "cli",
    "__main__",
)
FLOOR = {part: floor for floor, parts in enumerate(LAYERS) for part in parts.split()}
# Parts that must import without TensorFlow, which takes seconds: --help and recipe errors wait for
# no more than these.
LIGHT = {"errors", "disk", "files", "progress", "backend", "data", "recipe", "report"}
LIGHT |= {"commands", "cli"}


# Commands


def readme_commands() -> dict[str, str]:
    """The one-line fenced block right below each marker."""
    readme = (ROOT / "README.md").read_text()
    return dict(re.findall(r"^<!-- command: (\S+) -->\n```\w*\n(.+)\n```$", readme, re.MULTILINE))


def test_readme_has_each_command_once_in_one_line():
    markers = re.findall(r"<!-- command: (.*?) -->", (ROOT / "README.md").read_text())
    assert sorted(markers) == ["quickstart", "tests"]
    assert sorted(readme_commands()) == sorted(markers), (
        "a marker is not followed by a fenced block of one line"
    )


def test_readme_commands_install_what_is_pinned_and_name_files_that_exist():
    for command in readme_commands().values():
        assert command.startswith(
            "python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt "
        )
        named = [word for word in shlex.split(command) if re.match(r"(recipes|tests|docs)/", word)]
        assert [word for word in named if not (ROOT / word).exists()] == []


@pytest.mark.parametrize(("last", "code"), [("true", 0), ("false", 1)])
def test_ci_runs_the_readme_command_and_fails_with_it(tmp_path, last, code):
    """The real script in a project whose pip, ruff, browser and driver do nothing."""
    project, programs = tmp_path / "project", tmp_path / "bin"
    for folder in (project / ".ci", programs, tmp_path / "shared/data"):
        folder.mkdir(parents=True)
    command = f"echo 7 passed in $FINETUNE_DATA_DIR && {last}"
    (project / "README.md").write_text(f"<!-- command: tests -->\n```bash\n{command}\n```\n")
    (project / ".ci/run").write_text((ROOT / ".ci/run").read_text())
    for name in ("chromium", "chromedriver", "pip", "ruff"):
        (programs / name).symlink_to(shutil.which("true"))
    (programs / "python3").write_text(f"#!/bin/sh\nmkdir .venv && ln -s {programs} .venv/bin\n")
    (programs / "python3").chmod(0o755)
    done = subprocess.run(
        ["bash", project / ".ci/run"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
    )
    assert done.returncode == code, done.stderr
    assert done.stdout.splitlines() == [
        f"+ {command}",
        f"7 passed in {(tmp_path / 'shared/data').resolve()}",
    ]


def test_ci_is_executable():
    assert os.access(ROOT / ".ci/run", os.X_OK)


# Pins


def pins() -> dict[str, Requirement]:
    """constraints.txt by canonical name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def test_every_pin_is_one_exact_version():
    for requirement in pins().values():
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), requirement
        assert (requirement.url, requirement.marker, requirement.extras) == (None, None, set()), (
            requirement
        )


def test_pins_cover_the_direct_dependencies_within_their_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {**project["optional-dependencies"], "bench": []}  # PyTorch: its users pin it
    direct = [
        Requirement(text) for text in [*project["dependencies"], *itertools.chain(*extras.values())]
    ]
    wanted = {
        canonicalize_name(item.name): item.specifier
        for item in direct
        if item.name != project["name"]
    }
    assert set(wanted) - set(pins()) == set()
    versions = {name: next(iter(pins()[name].specifier)).version for name in wanted}
    assert {
        name: v for name, v in versions.items() if not wanted[name].contains(v, prereleases=True)
    } == {}


def test_all_is_every_extra_of_users_and_dev_installs_everything_but_ray():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]

    def reached(extra: str) -> set[str]:
        own = [Requirement(text) for text in extras[extra]]
        inner = {name for item in own if item.name == project["name"] for name in item.extras}
        return inner.union(*map(reached, inner))

    assert reached("all") == set(extras) - {"all", "bench", "docs", "test", "dev"}
    left_out = {"bench", "docs", "dev", "all", "ray"}  # Ray is large
    assert reached("dev") == set(extras) - left_out


def test_what_is_needed_by_an_extra_alone_is_imported_where_it_is_used():
    """The base install lacks these: a module that imports one at its top cannot be imported."""
    optional = {
        "onnx",
        "safetensors",
        "onnxruntime",
        "tf2onnx",
        "ai_edge_litert",
        "pyarrow",
        "tensorboard",
        "yaml",
        "optuna",
        "ray",
        "fsspec",
        "s3fs",
        "huggingface_hub",
        "kagglehub",
        "kagglesdk",
    }
    found = [
        f"{module} imports {name}"
        for module, tree in TREES.items()
        for name in set(
            imports(
                ast.Module(
                    [n for n in tree.body if not isinstance(n, ast.FunctionDef | ast.ClassDef)], []
                )
            )
        )
        if name.partition(".")[0] in optional
    ]
    assert found == []


def test_pre_commit_runs_the_pinned_ruff():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    (revision,) = (repo["rev"] for repo in hooks if repo["repo"].endswith("/ruff-pre-commit"))
    assert revision.removeprefix("v") in pins()["ruff"].specifier


# Recipes


def test_there_are_recipes():
    assert any(path.is_relative_to(ROOT / "recipes/quickstart") for path in RECIPES)
    assert any(not path.is_relative_to(ROOT / "recipes/quickstart") for path in RECIPES)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT / "recipes")))
def test_recipe_says_what_it_is_for_and_parses(path):
    from finetune.recipe.matrix import expand

    assert re.match(r"# \w", path.read_text()), (
        "a recipe opens with a comment: intent, command, cost, expected results"
    )
    assert len(expand(path)) >= 1


# The package


def test_no_module_is_a_drawer():
    names = {part for name in MODULES for part in name.split(".")}
    assert names & {"utils", "util", "helpers", "helper", "common", "misc"} == set()


def test_every_public_name_has_a_docstring():
    bare = [
        f"{module}.{node.name}"
        for module, tree in TREES.items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and node.name[0] != "_"
        and not ast.get_docstring(node)
    ]
    assert bare == []


def test_the_tables_are_offered_in_recipes_and_on_the_command_line():
    from finetune.cli.options import OPTIONS
    from finetune.model.backbones import known_backbones
    from finetune.recipe.parts import Head
    from finetune.recipe.recipe import Recipe
    from finetune.recipe.schema import schema
    from finetune.recipe.strategies import STRATEGIES

    # Read from the source: importing the table of heads would import Keras.
    (heads,) = (
        [ast.literal_eval(key) for key in node.value.keys]
        for node in TREES["finetune.model.heads"].body
        if isinstance(node, ast.Assign) and node.targets[0].id == "HEADS"
    )
    tables = {"strategy": list(STRATEGIES), "pool": heads}
    fields = {**Recipe.model_fields, **Head.model_fields}
    assert {key: list(get_args(fields[key].annotation)) for key in tables} == tables
    assert schema()["properties"]["backbone"]["enum"] == list(known_backbones())
    assert OPTIONS["strategy"].choices == tuple(STRATEGIES)
    assert list(OPTIONS["head"].choices) == heads


# Imports


def imports(tree: ast.AST) -> Iterator[str]:
    """Absolute names of all that is imported anywhere in a module; of `from a import b` also
    a.b.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"a relative import of {node.module} in line {node.lineno}"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(module: str) -> str:
    """The part of the package that a module belongs to, as FLOW names it; "" is finetune itself."""
    return module.partition(".")[2].partition(".")[0]


def test_imports_point_backwards_along_the_flow():
    wrong = [
        f"{module} imports {name}"
        for module, tree in TREES.items()
        for name in sorted(set(imports(tree)) & set(MODULES))
        if part(module) and part(name) and FLOOR[part(name)] > FLOOR[part(module)]
    ]
    assert wrong == []


def test_no_command_imports_another():
    wrong = [
        f"{module} imports {name}"
        for module, tree in TREES.items()
        if part(module) == "commands"
        for name in set(imports(tree)) & set(MODULES)
        if part(name) == "commands" and name not in (module, "finetune.commands")
    ]
    assert wrong == []


def test_the_layers_name_what_the_package_is_made_of():
    assert set(FLOOR) == {part(module) for module in MODULES} - {""}


def test_nothing_is_pickled():
    unsafe = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    assert [
        module
        for module, tree in TREES.items()
        if unsafe & {name.split(".")[0] for name in imports(tree)}
    ] == []


def test_text_is_read_and_written_as_utf_8():
    """Elsewhere than on Linux the default is another encoding; /proc is Linux's own."""
    arguments = {"read_text": 1, "write_text": 2}
    wrong = [
        f"{module}:{node.lineno}"
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if len(node.args) < arguments.get(node.func.attr, 0)
        if not any(word.arg == "encoding" for word in node.keywords)
    ]
    assert [place for place in wrong if not place.startswith("finetune.backend:")] == []


def test_light_modules_import_without_tensorflow():
    light = [name for name in MODULES if part(name) in LIGHT]
    heavy = "{'tensorflow', 'keras', 'openvino'}"
    code = f"import importlib, sys\nfor name in {light}:\n    importlib.import_module(name)\n"
    code += f"    assert not {heavy} & set(sys.modules), name"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Types


def test_the_package_is_typed(tmp_path):
    assert (ROOT / "finetune/py.typed").exists(), "users' checkers read our annotations (PEP 561)"
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
