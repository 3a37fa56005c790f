"""What a comparison shows, in sentences that follow from its numbers and intervals.

Differences are fractions of accuracy in the tables and points in the sentences. The simultaneous
intervals hold all at once, so a sentence may pick its pair after the data. How often each sentence
is untrue, in simulation: ``docs/honesty.md``.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from finetune.evaluation.planning import MARGIN
from finetune.progress import count

_SHOWN = 5  # recipes that a sentence names with their figures


def verdict(
    pairs: pd.DataFrame,
    groups: pd.DataFrame,
    cut_short: Collection[str] = (),
    margin: float = MARGIN,
) -> str:
    """The comparison in one plain sentence, without a full stop.

    Args:
        pairs, groups: from ``pairs.compare_pairs`` and ``ranking.tie_groups``.
        cut_short: recipes whose training ended while it still improved; beating one says little.
        margin: a difference under it (fraction) does not matter.
    """
    if len(groups) == 1:
        return f"{groups['recipe'][0]} is the only recipe: there is nothing to compare it with"
    tied = groups[groups["group"] == 1]
    # the one of whom ``tie_groups`` knows what it beats; equally accurate ones may beat less
    leader = min(tied.itertuples(), key=lambda row: (-row.accuracy, row.recipe)).recipe
    beaten = groups[groups["group"] > 1].sort_values("accuracy", ascending=False, kind="stable")
    fair = [name for name in beaten["recipe"] if name not in cut_short]
    short = [name for name in beaten["recipe"] if name in cut_short]
    parts = []
    if fair:
        parts.append(f"{leader} beats {fair[0]} by {_size(pairs, leader, fair[0])}")
        if len(fair) > 1:
            parts[0] += f", and {len(fair) - 1} more"
    others = [name for name in tied["recipe"] if name != leader]
    if others:
        apart = f"it from {listed(others)}" if fair else f"{listed([leader, *others])} apart"
        parts.append(f"the test photos cannot tell {apart}")
        best = f"{_up(bound(pairs, leader))} points better than {leader}"
        parts.append(f"no recipe is more than {best}")
    if alike := [name for name in others if _within(pairs, leader, name, margin)]:
        verb = "differs" if len(alike) == 1 else "differ"
        parts.append(f"{listed(alike)} {verb} from {leader} by less than {_points(margin)}")
    if short:
        verb = "was" if len(short) == 1 else "were"
        parts.append(f"{listed(short)} {verb} cut short and {verb} not compared in earnest")
    return "; ".join(parts)


def bound(pairs: pd.DataFrame, name: str) -> float:
    """No recipe is more than this much better than the one named (fraction, simultaneous 95 %)."""
    above = pd.concat([-pairs["low"][pairs["a"] == name], pairs["high"][pairs["b"] == name]])
    return max(0.0, float(above.max())) if len(above) else 0.0


def recommendation(pairs: pd.DataFrame, name: str) -> str:
    """How far a recipe that validation chose may be from the best one."""
    return (
        "It was chosen on validation photos alone, so that its test accuracy is not flattered by "
        f"the choice; on the test photos no recipe is more than {_up(bound(pairs, name))} points "
        "better (simultaneous 95 % bound)."
    )


def effect(axis: str, found: Mapping[str, Any], margin: float = MARGIN) -> str:
    """A swept setting's pooled main effect; ``found`` is a contrast of ``axes.effects``."""
    low, high = (signed(found[key]) for key in ("low", "high"))
    pairs = count(found["pairs"], "pair")
    size = f"{signed(found['difference'])} points ({low} to {high})"
    sentence = f"{axis}: {found['value']} over {found['against']}: {size}, mean of {pairs}"
    if found["p"] <= 0.05:
        subject = "these trained models" if found["scope"] == "models" else "the recipes"
        return f"{sentence}; a difference of {subject}, p {shown_p(found['p'])}"
    if found["alike"]:
        return f"{sentence}; no difference beyond {_points(margin)}"
    return f"{sentence}; not told from 0, and not shown to be under {_points(margin)}"


def identical(pairs: pd.DataFrame, unchanged: Collection[str] = ()) -> list[str]:
    """Recipes that are right on the same photos, and why, if ``unchanged`` names them."""
    sets: list[set[str]] = []
    for pair in pairs[pairs["same"]].itertuples():
        home = next((one for one in sets if {pair.a, pair.b} & one), None)
        if home is None:
            home = set()
            sets.append(home)
        home |= {pair.a, pair.b}
    sentences = []
    for names in (sorted(one) for one in sets):
        kept = [name for name in names if name in unchanged]
        why = f" (training of {listed(kept)} kept epoch 0)" if kept else ""
        sentences.append(
            f"{listed(names, limit=9)} are right on the same test photos with every seed{why}; "
            "the test counts them once"
        )
    return sentences


def shared(
    accuracy: Mapping[str, float],
    unseen: Mapping[str, float | None],
    known: int | None,
    alike: bool = True,
) -> str:
    """Mean accuracy with and without ``known`` test photos that another split holds, too.

    Empty where it was not recorded how many there are; ``alike``: whether look-alikes are counted.
    """
    copy = "a copy or a look-alike" if alike else "a copy (look-alikes were not sought)"
    if known is None:
        return ""
    if not known:
        return f"No test photo has {copy} in another split"
    subject = f"{count(known, 'test photo')} {'has' if known == 1 else 'have'}"
    sizes = [
        f"{name} {100 * left:.1f} instead of {100 * accuracy[name]:.1f} %"
        for name, left in unseen.items()
        if left is not None
    ]
    without = f"; without {'it' if known == 1 else 'them'}: {', '.join(sizes[:_SHOWN])}"
    more = f" and {len(sizes) - _SHOWN} more in compare.json" if len(sizes) > _SHOWN else ""
    return f"{subject} {copy} in another split{without if sizes else ''}{more}"


def scored(ledger: Mapping[str, int]) -> str:
    """How often a test split was looked at; ``ledger`` is from ``runs.ledger.read``."""
    models = count(ledger["models"], "model")
    times = count(ledger["comparisons"], "comparison")
    return (
        f"On this machine {models} {'have' if ledger['models'] != 1 else 'has'} been scored on "
        f"this test split so far, in {times}"
    )


def signed(share: float) -> str:
    """A fraction as points with sign, ``+1.2``."""
    return f"{round(100 * share, 1) or 0:+.1f}"


def shown_p(p: float) -> str:
    """``= 0.027`` or ``< 0.001``."""
    return "< 0.001" if p < 0.001 else f"= {p:.2g}"


def listed(names: Sequence[str], limit: int = 4) -> str:
    """``A, B and C``; a long list ends in ``and 9 others``."""
    names = list(names)
    if len(names) > limit:
        names = [*names[: limit - 1], f"{len(names) - limit + 1} others"]
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def _size(pairs: pd.DataFrame, winner: str, loser: str) -> str:
    """``1.1 points (0.3 to 1.9, p = 0.01)``, and what the claim is about."""
    pair = _pair(pairs, winner, loser)
    size, low, high = (f"{100 * pair[key] or 0:.1f}" for key in ("difference", "low", "high"))
    scope = "" if pair["scope"] == "recipes" else ", as trained models"
    return f"{size} points ({low} to {high}, p {shown_p(pair['p'])}){scope}"


def _within(pairs: pd.DataFrame, a: str, b: str, margin: float) -> bool:
    """Two one-sided tests by the simultaneous interval (Schuirmann 1987)."""
    pair = _pair(pairs, a, b)
    return bool(-margin < pair["low"] and pair["high"] < margin)


def _pair(pairs: pd.DataFrame, a: str, b: str) -> dict[str, Any]:
    """The row of a pair, seen from ``a``."""
    pair = pairs[pairs["a"].isin([a, b]) & pairs["b"].isin([a, b])].iloc[0].to_dict()
    if pair["a"] == a:
        return pair
    size = {"difference": -pair["difference"], "low": -pair["high"], "high": -pair["low"]}
    return {**pair, "a": a, "b": b, **size}


def _up(share: float) -> str:
    """Points, rounded up: a bound must not be rounded below itself."""
    return f"{math.ceil(1000 * share - 1e-9) / 10:.1f}"


def _points(share: float) -> str:
    return f"{100 * share:g} point{'s' if round(100 * share, 9) != 1 else ''}"
