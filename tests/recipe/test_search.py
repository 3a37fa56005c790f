"""The search of a recipe: every mistake with its line, domains as they will be drawn from."""

import pytest

from finetune.errors import UsageError
from finetune.recipe.matrix import expand
from finetune.recipe.reading import load
from finetune.recipe.search import Domain, read_search

GOOD = (
    "epochs: 3\nsearch:\n  learning_rate: {log: [1e-6, 1e-3]}\n  blocks: [1, 2]\n"
    "  head.dropout: {range: [0, 0.6]}\n  batch_size: {log: [8, 64]}\n"
)


def test_ranges_and_choices_become_domains_and_a_recipe(tmp_path):
    (tmp_path / "r.yaml").write_text(GOOD)
    search = read_search(tmp_path / "r.yaml")
    assert search.domains == {
        "learning_rate": Domain(low=1e-6, high=1e-3, log=True),
        "blocks": Domain(choices=(1, 2)),
        "head.dropout": Domain(low=0, high=0.6),
        "batch_size": Domain(low=8, high=64, log=True, whole=True),
    }
    recipe = search.recipe({"blocks": 2, "head.dropout": 0.25})
    assert (recipe.epochs, recipe.blocks, recipe.head.dropout) == (3, 2, 0.25)
    assert read_search({"search": {"blocks": [1, 2]}}).recipe({"blocks": 1}).blocks == 1


@pytest.mark.parametrize(
    ("text", "reasons"),
    [
        ("epochs: 3", ["r.yaml: this recipe holds search: None"]),
        ("search: [a]", ["r.yaml:1: this recipe holds search: ['a']"]),
        ("search: {}", ["r.yaml:1: this recipe holds search: {}"]),
        ("matrix: {seed: [1]}\nsearch: {blocks: [1, 2]}", ["r.yaml:2: this recipe holds a matrix"]),
        ("search:\n  track: [mlflow, none]", ["r.yaml:2", "track cannot be searched"]),
        ("search:\n  blocks: 1", ["r.yaml:2: blocks is 1; expected a list"]),
        ("search:\n  blocks: {step: [1, 2]}", ["r.yaml:2", "expected a list"]),
        ("search:\n  blocks: []", ["r.yaml:2", "expected a list"]),
        ("search:\n  head: [{pool: gap}]", ["the values texts, numbers, true or false"]),
        ("search:\n  blocks: {range: [2, 1]}", ["r.yaml:2", "the lower one first"]),
        ("search:\n  blocks: {range: [1]}", ["r.yaml:2", "two numbers"]),
        ("search:\n  blocks: {range: [true, 3]}", ["r.yaml:2", "two numbers"]),
        ("search:\n  head.dropout: {log: [0, 0.5]}", ["r.yaml:2", "numbers above 0"]),
        ("search:\n  seed: [0, 1]", ["r.yaml:2: seed is [0, 1]; seed cannot be searched"]),
        ("search:\n  lerning_rate: [1e-3]", ["r.yaml:2", "did you mean 'learning_rate'?"]),
        ("search:\n  head.dropout: {range: [0.1, 1]}", ["r.yaml:2", "less than 1"]),
        ("search:\n  head.dropout: {range: [-0.1, 0.9]}", ["r.yaml:2", "greater than or equal"]),
        ("search:\n  blocks: [1, 2, 7]\n  head: [gap, gab]", ["r.yaml:2", "r.yaml:3", "gmp"]),
        ("epochs: two\nsearch:\n  blocks: [1, 2]", ["r.yaml:1: epochs is 'two'"]),
        ("views: 4\naugment: light\nsearch:\n  augment: [light, none]", ["r.yaml:4: views: 4"]),
    ],
)
def test_a_wrong_search_is_refused_with_its_line(tmp_path, text, reasons):
    (tmp_path / "r.yaml").write_text(text + "\n")
    with pytest.raises(UsageError) as caught:
        read_search(tmp_path / "r.yaml")
    assert [reason for reason in reasons if reason not in str(caught.value)] == [], caught.value


def test_other_commands_name_the_one_that_runs_a_search(tmp_path):
    (tmp_path / "r.yaml").write_text(GOOD)
    for opened in (lambda path: load(path, {}), expand):
        with pytest.raises(UsageError, match="finetune tune"):
            opened(tmp_path / "r.yaml")
