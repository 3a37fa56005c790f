"""`finetune run`, `compare`, `tune`, `extract-features`, `ensemble`: their results for a person."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.cli.verbs import verb
from finetune.commands.compare import compare, plan_compare
from finetune.commands.ensemble import ensemble
from finetune.commands.extract_features import extract_features
from finetune.commands.run import find_lr, plan_run, run
from finetune.commands.tune import tune
from finetune.errors import SomeCellsFailed
from finetune.progress import count


def _run(result: Mapping[str, Any]) -> str:
    test, seconds = result["test"], result["seconds"]
    low, high = test["accuracy_interval"]
    return (
        f"test accuracy {_percent(test['accuracy'])} ({_percent(low)} to {_percent(high)}) on "
        f"{count(test['n'], 'photo')}, log loss {test['loss']:.4f}; validation accuracy "
        f"{_percent(result['validation']['accuracy'])}\n"
        f"balanced accuracy {_percent(test['balanced_accuracy'])}; always naming the most frequent "
        f"class has an accuracy of {_percent(test['majority_baseline'])}"
        f"{_without(test, result['unseen'])}\n"
        f"{result['strategy']} on {result['backbone']}, cut at {result['cut']}; "
        f"{seconds['extract']:.0f} s for activations, {seconds['train']:.0f} s for training\n"
        f"{result['run']}"
    )


def _without(test: Mapping[str, Any], unseen: Mapping[str, Any]) -> str:
    """Accuracy without the test photos that stand in another split, if there are any."""
    known = test["n"] - unseen.get("n", test["n"])
    if not known or unseen["accuracy"] is None:
        return ""
    return (
        f"\naccuracy without {count(known, 'test photo')} that another split holds, too: "
        f"{_percent(unseen['accuracy'])} on {count(unseen['n'], 'photo')}"
    )


def _run_plan(plan: Mapping[str, Any]) -> str:
    parameters, shape = plan["parameters"], " x ".join(map(str, plan["shape"]))
    photos = ", ".join(f"{number:,} {name}" for name, number in plan["photos"].items())
    stored = plan["stored_rows"] - plan["to_extract"]
    streamed = plan["streamed_per_epoch"]
    lines = [
        f"{plan['strategy']} on {plan['backbone']}: cut at {plan['cut']} ({shape})",
        f"trunk {parameters['trunk']:,} parameters, tail {parameters['tail']:,}, of which "
        f"{parameters['trainable']:,} learn",
        f"photos: {photos}",
        f"activations: {count(plan['stored_rows'], 'row')}, of which {stored:,} are stored and "
        f"{plan['to_extract']:,} still to be computed ({_mib(plan['bytes_to_store'])})",
        f"{count(streamed, 'photo')} streamed through the trunk in each epoch" if streamed else "",
        f"{count(plan['folds'], 'fold')} after that: heads and tails" if plan["folds"] else "",
        _nearest(plan["nearest"]),
        f"at most {count(plan['epochs'], 'epoch')}; {_estimate(plan['estimate'])}",
    ]
    return "\n".join(line for line in lines if line)


def _rate(found: Mapping[str, Any]) -> str:
    return (
        f"suggested learning rate {found['suggested']:g}, a tenth of that with the lowest loss in "
        f"{count(len(found['rates']), 'step')} of rising rates ({found['seconds']:.0f} s); try it "
        f"with --set learning_rate={found['suggested']:g}\n{found['plot']}"
    )


def _nearest(nearest: Mapping[str, Any]) -> str:
    """Why none of these activations is stored: how the most similar ones differ."""
    differences = "; ".join(
        f"{name}: stored {json.dumps(stored)}, wanted {json.dumps(wanted)}"
        for name, (stored, wanted) in nearest.items()
    )
    return f"the most similar stored activations differ in {differences}" if differences else ""


def _estimate(estimate: Mapping[str, float]) -> str:
    longest, shortest = _duration(estimate["seconds"]), _duration(estimate["seconds_at_least"])
    if longest == shortest:
        return f"about {longest}"
    return f"{shortest} to {longest}, depending on early stopping"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _compare(result: Mapping[str, Any]) -> str:
    table = (Path(result["report"]).parent / "results.md").read_text(encoding="utf-8")
    return f"{table}\n{result['report']}"


def _compare_plan(plan: Mapping[str, Any]) -> str:
    lines = [f"{', '.join(names)}: {text}" for text, names in _alike(plan["cells"]).items()]
    return "\n".join(
        [
            *lines,
            f"{count(len(plan['cells']), 'trial')}, {count(plan['extractions'], 'extraction')} "
            f"({plan['extractions_saved']} saved by sharing), {_mib(plan['bytes_to_store'])} to "
            f"store, {_estimate(plan)}",
            *_needed(plan["needed"]),
        ]
    )


def _needed(needed: Mapping[str, Any]) -> Iterator[str]:
    """What it takes to find a true gap between two recipes."""
    if needed["recipes"] < 2 or not needed["photos"]:
        return
    pair = needed["share_of"]
    why = f"as {pair[0]} and {pair[1]} did" if pair else "an assumption: nothing was measured yet"
    noise = f", with {100 * needed['seed_sd']:.2f} points (sd) between seeds"
    yield (
        f"a true gap is found four times in five ({count(needed['photos'], 'test photo')}, "
        f"{count(needed['recipes'], 'recipe')}, {count(needed['seeds'], 'seed')} each; if two "
        f"differ on {_percent(needed['share'])} of the photos, {why}"
        f"{noise if needed['seed_sd'] else ''}) with:"
    )
    for row in needed["gaps"]:
        photos, seeds = row["photos"], row["seeds"]
        more = "more photos alone do not" if photos is None else f"{photos:,} test photos"
        again = "more seeds alone do not" if seeds is None else count(seeds, "seed")
        yield f"  {row['gap']:g} point{'s' if row['gap'] != 1 else ''}: {more}, or {again}"


def _trial_plan(row: Mapping[str, Any]) -> str:
    if row["reason"]:
        return str(row["reason"])
    return "shares its activations" if row["shares"] else f"{row['to_extract']:,} rows to compute"


def _alike(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """What is said of the trials -> their names: a reason that stops all is said once."""
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(_trial_plan(row), []).append(row["name"])
    return found


def _none_can_run(plan: Mapping[str, Any]) -> SomeCellsFailed | None:
    """A comparison in which no trial can run is found out before it is begun."""
    if not all(row["reason"] for row in plan["cells"]):
        return None
    return SomeCellsFailed("No trial can run, for the reasons above; mend them first.")


def _some_failed(result: Mapping[str, Any]) -> SomeCellsFailed | None:
    cells = result["cells"]
    failed = [cell["name"] for cell in cells if cell.get("status", "done") != "done"]  # or a plan
    if not failed:
        return None
    names = ", ".join(failed[:5])
    return SomeCellsFailed(
        f"{len(failed)} of {count(len(cells), 'trial')} have no result: {names}; the report says "
        "why."
    )


def _draws_failed(result: Mapping[str, Any]) -> SomeCellsFailed | None:
    if not result["failed"]:
        return None
    verb = "has" if result["failed"] == 1 else "have"
    return SomeCellsFailed(
        f"{result['failed']} of {count(result['trials'], 'trial')} {verb} no result; the best of "
        f"the others is {result['recipe']}. {Path(result['recipe']).with_name('trials.csv')} says "
        "why."
    )


def _tune(result: Mapping[str, Any]) -> str:
    test, expected = result["test"], result["expected"]
    low, high = test["accuracy_interval"]
    best = ", ".join(f"{key}: {value}" for key, value in result["best"].items())
    compared = result["trials"] - result["pruned"] - result["failed"]
    important = ", ".join(f"{key} {_percent(share)}" for key, share in result["importance"].items())
    return "\n".join(
        [
            f"best of {count(result['trials'], 'trial')} ({result['pruned']} pruned, "
            f"{result['failed']} failed): {best}",
            f"validation accuracy {_percent(result['validation']['accuracy'])}; having chosen the "
            f"best of {compared} flatters it: expect {_percent(expected['accuracy'])} "
            f"({100 * expected['accuracy_optimism']:+.1f} points of optimism)",
            f"test accuracy {_percent(test['accuracy'])} ({_percent(low)} to {_percent(high)}) on "
            f"{count(test['n'], 'photo')}, which chose nothing",
            *([f"validation loss depended on {important}"] if important else []),
            f"{result['recipe']}\n{result['run']}",
        ]
    )


def _features(result: Mapping[str, Any]) -> str:
    shape = " x ".join(map(str, result["shape"]))
    speed = f"{result['images_per_second']:.1f} photos per second"
    source = "from the cache" if result["cached"] else speed
    return f"{result['out']}: features.npy ({shape}), index.csv; {source}"


def _ensemble(result: Mapping[str, Any]) -> str:
    test = result["test"]
    weights = ", ".join(f"{weight:.2f} {name}" for name, weight in result["weights"].items())
    return "\n".join(
        [
            f"{result['blend']} of {weights}",
            f"test accuracy {_percent(test['accuracy'])} (balanced "
            f"{_percent(test['balanced_accuracy'])}; always the most frequent class: "
            f"{_percent(test['majority_baseline'])}), log loss {test['loss']:.4f}",
            result["verdict"],
            result["out"],
        ]
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


VERBS = {
    "run": verb(
        run,
        _run,
        "finetune run --data photos --strategy cached-features",
        plan=plan_run,
        plan_text=_run_plan,
        instead={"find_lr": (find_lr, _rate)},
    ),
    "compare": verb(
        compare,
        _compare,
        "finetune compare recipes/quickstart --out compared",
        plan=plan_compare,
        plan_text=_compare_plan,
        plan_failure=_none_can_run,
        failure=_some_failed,
    ),
    "tune": verb(
        tune, _tune, "finetune tune recipe.yaml --trials 50 --out tuned", failure=_draws_failed
    ),
    "ensemble": verb(ensemble, _ensemble, "finetune ensemble runs/a runs/b --blend weighted"),
    "extract-features": verb(
        extract_features, _features, "finetune extract-features --data photos --pooling gap"
    ),
}
