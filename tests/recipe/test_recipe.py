"""Recipes: every mistake at once, with its place and the nearest right word."""

import itertools
import sys

import pytest

from finetune.errors import UsageError
from finetune.recipe.matrix import expand
from finetune.recipe.methods import dropout_warning
from finetune.recipe.parts import PARTS
from finetune.recipe.reading import build, load, reopen
from finetune.recipe.schema import schema
from finetune.recipe.strategies import STRATEGIES
from finetune.recipe.words import WORDS
from finetune.recipe.yaml import parse


def refused(path=None, settings=(), **values) -> str:
    with pytest.raises(UsageError) as caught:
        load(path, values, list(settings))
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_has_defaults_that_fit_together_and_survive_a_round_trip(strategy, tmp_path):
    recipe = load(None, {"strategy": strategy})
    (tmp_path / "r.yaml").write_text(recipe.dump())
    assert load(tmp_path / "r.yaml", {}) == recipe


def test_flags_override_the_file_and_set_overrides_both(tmp_path):
    (tmp_path / "r.yaml").write_text("epochs: 3\nseed: 1\nhead: gmp\n")
    recipe = load(
        tmp_path / "r.yaml",
        {"seed": 2, "data": None},
        ["seed=3", "head.dropout=0.5", "learning_rate=1e-4"],
    )
    assert (
        recipe.epochs,
        recipe.seed,
        recipe.head.pool,
        recipe.head.dropout,
        recipe.learning_rate,
    ) == (3, 3, "gmp", 0.5, 1e-4)


def test_all_mistakes_are_reported_at_once_with_line_and_suggestion(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "# intent\nlerning_rate: 1e-5\nepochs: two\nhead:\n  pool: gap\n  dropot: 0.5\nbackbone: "
        "vgg\n"
    )
    message = refused(tmp_path / "r.yaml")
    assert "r.yaml:2: unknown key 'lerning_rate'; did you mean 'learning_rate'?" in message
    assert "r.yaml:3: epochs is 'two'" in message
    assert "r.yaml:6: unknown key 'head.dropot'; did you mean 'dropout'?" in message
    assert "r.yaml:7: There is no backbone 'vgg'; the nearest are vgg19, vgg16" in message


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (
            {"strategy": "cached-features", "augment": "light", "views": "fresh"},
            "a store would freeze one draw",
        ),
        ({"strategy": "top-blocks", "views": "fresh"}, "views: fresh needs an augmentation"),
        (
            {"strategy": "top-blocks", "augment": "light", "views": 0},
            "views: 0 does not go with this augment",
        ),
        ({"strategy": "cached-features", "views": 3}, "views: 3 does not go with this augment"),
        ({"strategy": "frozen-base", "head": {"solver": "lbfgs"}}, "cannot take views: fresh"),
        ({"head": {"hidden": 8, "solver": "lbfgs"}}, "with a hidden layer set solver: keras"),
        ({"augment": "heavy"}, "augment is 'heavy'; allowed are none, light"),
        ({"augment": {"flip": True, "rotatoin": 3.0}}, "did you mean 'rotation'?"),
        ({"epochs": -1}, "greater than or equal to 0"),
        ({"strategy": "top-block"}, "'top-blocks'"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"data": 2020}, "data is 2020"),
        ({"solver": "lbfgs"}, "unknown key 'solver'"),
        ({"strategy": "cached-features", "mixup": 0.2}, "mixup changes training by epochs, and"),
        (
            {"strategy": "cached-features", "weight_decay": 0.01},
            "weight_decay changes training by epochs, and L-BFGS fits this head",
        ),
        ({"strategy": "cached-features", "schedule": "one-cycle"}, "Leave it out, set head.solver"),
        (
            {"strategy": "cached-features", "head": {"solver": "keras"}, "cutmix": 1.0},
            "cutmix needs blocks that learn: above the last block",
        ),
        ({"strategy": "frozen-base", "layer_decay": 0.5}, "the rate falls from block to block"),
        ({"strategy": "top-blocks", "features": ["block4_pool"]}, "none learns; add block5_pool"),
        (
            {"strategy": "top-blocks", "blocks": [1, 2], "features": ["block4_pool"]},
            "none learns; add block5_pool",
        ),
        ({"warmup": 1.5}, "warmup is 1.5; below 1 it is a share"),
        ({"warmup": 0.1, "schedule": "one-cycle"}, "has a warm-up of its own"),
        ({"blocks": [1, 3, 2]}, "each training takes more blocks"),
        ({"blocks": [1, 5]}, "blocks is 5; vgg16 has 5"),
        ({"strategy": "full", "blocks": [1, 2]}, "only strategy: top-blocks does"),
        ({"blocks": []}, "blocks is []"),
        ({"groups": "("}, "groups: '(' is no regular expression"),
        ({"groups": "(a{99999999999})"}, "is no regular expression"),
        ({"groups": "patient"}, "groups: 'patient' captures nothing; allowed: folder:N"),
        ({"groups": "(a)" * 400}, "groups has 1,200 characters; allowed are 1,000"),
    ],
)
def test_contradictions_are_refused_when_the_recipe_is_read(values, reason):
    assert reason in refused(**values)


def test_a_finished_run_whose_blocks_were_not_in_its_model_opens(tmp_path):
    text = "strategy: top-blocks\nfeatures: [block4_pool]\n"
    (tmp_path / "recipe.yaml").write_text(text)
    assert reopen(tmp_path / "recipe.yaml").features == ["block4_pool"], "earlier versions ran it"
    two = {"strategy": "top-blocks", "blocks": 2, "features": ["block4_pool"]}
    assert load(None, two).cut == "block3_pool"
    assert load(None, {"strategy": "full", "features": ["block1_pool"]}).features == ["block1_pool"]


def test_dropout_where_no_epoch_takes_it_is_warned_of_and_weight_decay_refused(tmp_path):
    (tmp_path / "recipe.yaml").write_text("strategy: cached-features\nweight_decay: 0.1\n")
    assert reopen(tmp_path / "recipe.yaml").weight_decay == 0.1, "earlier versions ran it"
    head = {"dropout": 0.5, "solver": "lbfgs"}
    assert "has no effect" in dropout_warning(
        load(None, {"strategy": "cached-features", "head": head})
    )
    chosen = {"strategy": "cached-features", "backbone": "mini-cnn"}
    published = load(None, chosen, ["head.hidden=0"])
    assert (published.head.solver, published.head.dropout) == ("lbfgs", 0.5)
    assert dropout_warning(published) is None
    for strategy, solver in (("cached-features", "keras"), ("top-blocks", "lbfgs")):
        head = {"dropout": 0.5, "solver": solver}
        taken = load(None, {"strategy": strategy, "head": head, "weight_decay": 0.1})
        assert dropout_warning(taken) is None


def test_views_follow_from_strategy_and_augmentation():
    found = [
        load(None, {"strategy": s, "augment": a}).views
        for s in STRATEGIES
        for a in ("none", "light")
    ]
    assert found == [0, 4, 0, "fresh", 0, "fresh", 0, "fresh"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [unclosed", "r.yaml:1"),
        ("- a\n- b", "expected `key: value` lines, found list"),
        ("x: !!python/object/apply:os.system [ls]", "r.yaml:1: could not determine a constructor"),
        ("seed: 1\nseed: 2", "r.yaml:2: key 'seed' stands twice"),
        ("a: &x 1\nb: *x", "r.yaml:2: aliases"),
    ],
)
def test_what_is_no_recipe_is_said_with_its_line(tmp_path, text, reason):
    (tmp_path / "r.yaml").write_text(text)
    assert reason in refused(tmp_path / "r.yaml")


def test_bombs_are_refused_before_anything_is_built_of_them():
    names = [chr(ord("a") + i) for i in range(20)]
    lines = [f"{names[0]}: &{names[0]} [{', '.join(['x'] * 10)}]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in itertools.pairwise(names)]
    with pytest.raises(UsageError, match="aliases"):
        parse("\n".join(lines), "bomb.yaml")
    with pytest.raises(UsageError, match="at most"):
        parse("x: " + "[" * 2**21, "long.yaml")
    with pytest.raises(UsageError, match=r"nested|deep"):
        parse("x: " + "[" * 60_000, "deep.yaml")


def test_numbers_like_1e_5_are_numbers():
    assert parse("a: 1e-5\nb: 1.0e-5\nc: 1e5\nd: e5\n", "t")[0] == {
        "a": 1e-5,
        "b": 1e-5,
        "c": 1e5,
        "d": "e5",
    }


def test_a_recipe_cannot_be_changed():
    recipe = build({}, "r", {})
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3


def test_a_missing_package_is_said_when_the_recipe_is_read_and_not_when_it_was_run(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(
        sys.modules, "tensorboard", None
    )  # find_spec then finds none, whatever is installed
    (tmp_path / "r.yaml").write_text("seed: 1\ntrack: tensorboard\nepochs: two\n")
    message = refused(tmp_path / "r.yaml")
    assert (
        "r.yaml:2: track: tensorboard needs a package that is not installed; `pip install "
        '"finetune-cut[ten' in message
    )
    assert "r.yaml:3: epochs is 'two'" in message
    assert load(None, {"track": "none"}).track == "none"
    (tmp_path / "r.yaml").write_text("track: tensorboard\n")
    assert reopen(tmp_path / "r.yaml").track == "tensorboard", (
        "a finished run can be used where it could not be trained"
    )
    with pytest.raises(UsageError, match="tensorboard"):
        expand(tmp_path / "r.yaml")


def test_a_package_that_is_there_will_do(tmp_path, monkeypatch):
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard/__init__.py").touch()
    monkeypatch.delitem(sys.modules, "tensorboard", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert load(None, {"track": "tensorboard"}).track == "tensorboard"


def test_an_earlier_word_is_read_in_finished_runs_and_its_successor_named(tmp_path):
    (tmp_path / "r.yaml").write_text("tensorboard: true\n")
    assert reopen(tmp_path / "r.yaml").track == "none"
    assert "unknown key 'tensorboard'; it is `track: tensorboard` now" in refused(
        tmp_path / "r.yaml"
    )


@pytest.mark.parametrize(
    ("key", "meant"),
    [("dropout", "head.dropout"), ("flip", "augment.flip"), ("momentun", "optimizer.momentum")],
)
def test_a_nested_key_is_suggested_by_its_own_name(key, meant):
    with pytest.raises(UsageError, match=f"did you mean '{meant}'"):
        build({key: 1}, "r", {})


def test_every_key_has_words():
    properties = schema()["properties"]
    assert [key for key, value in properties.items() if "description" not in value] == []
    for table, part in PARTS.items():
        assert {f"{table}.{key}" for key in part.model_fields} <= set(WORDS)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("data: 2020-01-01", "r.yaml:1: 2020-01-01 is a date; put it in quotes"),
        ("matrix:\n  data: [2020-01-01, b]", "r.yaml:2: 2020-01-01 is a date"),
        ("seed: 1\n? [a, b]\n: 3", "r.yaml:2: a key is a list or a table"),
        ("matrix:\n  1: [2]", "r.yaml:2: the key 1 is no text"),
        ("search: {1: [2]}", "r.yaml:1: the key 1 is no text"),
        ("matrix: {seed: [1]}\nexclude: [{1: 2, a: 3}]", "r.yaml:2: the key 1 is no text"),
        ("matrix: {seed: [1, 2]}\nexclude: [{seed: 1}, {seed: 2}]", "leaves none of 2 trials"),
        ("seed: 0x" + "F" * 5_000, "r.yaml:1: a number of 5,002 digits; allowed are 100"),
        ("strategy: [full, top-blocks]", "r.yaml:1: strategy is ['full', 'top-blocks']"),
        ("backbone: [vgg16]", "r.yaml:1: backbone is ['vgg16']"),
        ("learning_rate: .inf", "learning_rate is inf"),
        ("weight_decay: .nan", "weight_decay is nan"),
        ("augment: light\nviews: 1000000000", "r.yaml:2: views is 1000000000"),
        ("augment: light\nviews: -1", "r.yaml:2: views is -1"),
        ("precision: float16", "precision is 'float16'"),
        ("x: !!set {a}", "r.yaml:1: could not determine a constructor"),
        ("a: &x [1]\nhead: {<<: *x}", "aliases"),
    ],
)
def test_what_yaml_allows_and_a_recipe_does_not_is_said_with_its_line(tmp_path, text, reason):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UsageError) as caught:
        expand(tmp_path / "r.yaml")
    assert reason in str(caught.value)


def test_a_plain_value_has_no_keys_of_its_own(tmp_path):
    assert "epochs is 3 and has no keys" in refused(settings=["epochs.x=3"], epochs=3)
    message = refused(settings=["augment.rotation=20"], augment="ligth")
    assert "augment is 'ligth' and has no keys of its own; allowed are none, light" in message
    (tmp_path / "r.yaml").write_text("epochs: 3\nmatrix: {epochs.x: [1, 2]}\n")
    with pytest.raises(UsageError, match=r"r.yaml \(epochs.x: 1\): epochs is 3 and has no keys"):
        expand(tmp_path / "r.yaml")


def test_too_many_trials_are_refused_before_they_are_made(tmp_path):
    lists = "\n".join(
        f"  {key}: [{', '.join(map(str, range(1, 1001)))}]"
        for key in ("seed", "epochs", "patience")
    )
    (tmp_path / "r.yaml").write_text(f"matrix:\n{lists}\n")
    with pytest.raises(UsageError, match=r"r.yaml:1: 1,000,000,000 trials; allowed are 10,000"):
        expand(tmp_path / "r.yaml")


def test_a_folder_is_no_recipe_but_may_be_data(tmp_path):
    assert f"finetune run --data {tmp_path}" in refused(tmp_path)


def test_the_schema_names_every_key():
    from finetune.recipe.recipe import Recipe
    from finetune.recipe.schema import schema

    assert {*Recipe.model_fields, "matrix", "exclude", "search"} == set(schema()["properties"])


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"backbone": "mobilnet"}, "There is no backbone 'mobilnet'; the nearest are mobilenet"),
        ({"backbone": "mobilenet", "alpha": 0.3}, "mobilenet comes with alpha 0.25, 0.5, 0.75, 1"),
        ({"alpha": 0.25}, "vgg16 has no alpha"),
        ({"backbone": "mini-cnn", "blocks": 3}, "mini-cnn has 3: allowed are 1 to 2"),
        ({"image_size": 31}, "image_size is 31; vgg16 takes photos of 32 px and more"),
        ({"image_size": 27}, "image_size is 27"),
        ({"optimizer": {"momentum": 0.5}}, "adam takes no momentum"),
        ({"optimizer": "rmsprop"}, "optimizer.name is 'rmsprop'"),
        ({"optimizer": {"name": "sgd", "momentun": 1.0}}, "did you mean 'momentum'?"),
        ({"head": {"hidden": []}}, "head.hidden"),
        ({"preprocessing": "torch"}, "preprocessing is 'torch'"),
        ({"features": ["pool4"]}, "features names pool4; vgg16 has the cuts block1_pool, "),
        ({"features": ["block5_pool", "block4_pool"]}, "from below: [block4_pool, block5_pool]"),
        ({"features": ["block4_pool"], "head": "flatten"}, "set head.pool: gap or gmp"),
        ({"features": ["block3_pool"]}, "lies below the cut block4_pool of top-blocks"),
        ({"strategy": "cached-features", "loss": "focal"}, "set head.solver: keras"),
        ({"sampling": "balanced", "class_weight": "balanced"}, "set one of them"),
        ({"tta": "rotate"}, "tta is 'rotate'"),
    ],
)
def test_what_does_not_fit_the_backbone_or_optimizer_is_refused(values, reason):
    message = refused(**values)
    assert reason in message
    assert len(message) < 400


def test_a_backbone_brings_its_head_and_short_forms_are_written_out():
    recipe = load(None, {"backbone": "mini-cnn", "image_size": 28, "optimizer": "sgd"})
    assert recipe.head.model_dump() == {
        "pool": "flatten",
        "hidden": [128, 64],
        "dropout": 0.5,
        "solver": "keras",
    }
    assert recipe.optimizer.model_dump() == {"name": "sgd", "momentum": 0.9}
    assert load(None, {"backbone": "mini-cnn", "head": "gap"}).head.hidden == 0
    settings = ["optimizer.name=sgd", "optimizer.momentum=0.0", "head.dropout=0.1"]
    recipe = load(None, {"backbone": "mini-cnn"}, settings)
    assert (recipe.optimizer.momentum, recipe.head.dropout, recipe.head.hidden) == (
        0.0,
        0.1,
        [128, 64],
    )


def test_blocks_that_thaw_in_turn_are_cut_below_the_last_of_them(tmp_path):
    recipe = load(None, {"blocks": [1, 2]}, ["learning_rate=1e-4"])
    assert (recipe.stages, recipe.cut) == ((1, 2), "block3_pool")
    (tmp_path / "r.yaml").write_text(recipe.dump())
    assert load(tmp_path / "r.yaml", {}) == recipe
    assert load(None, {"blocks": 2}).stages == (2,)
