"""Every recipe beside every other on the same photos, by the test of ``significance``."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from finetune.evaluation.planning import ALPHA
from finetune.evaluation.significance import RESAMPLES, Design, cross

_INDEPENDENT = Design()  # photos without groups, recipes with seeds


def compare_pairs(
    correct: Mapping[str, np.ndarray],
    losses: Mapping[str, np.ndarray],
    design: Design = _INDEPENDENT,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> pd.DataFrame:
    """Compare every recipe with every other on the same photos.

    Args:
        correct: recipe -> bool (seeds, n) or (n,): whether the model names photo i rightly. The
            first row is the model that is shown. The order of photos is the same for all recipes.
        losses: recipe -> float of the same shape, negative log likelihood, nats.
        design, seed, resamples: see ``cross``.

    Returns:
        One row per pair (a before b in ``correct``): a, b; difference (accuracy of a minus that of
        b, fraction) with low and high (95 %, simultaneous over all pairs); p (adjusted; p_holm is
        the same); only_a, only_b (photos that one shown model alone gets right); better (the
        winner's name, or None); scope of the claim ("models" or "recipes"); same (whether both
        are right on the same photos with every seed); loss_difference (nats), loss_low, loss_high.

    Raises:
        ValueError: the recipes or the photos of the arguments do not match, or a loss is infinite.
    """
    hits, nats = _aligned(correct, losses)
    names = list(hits)
    first, second = np.triu_indices(len(names), k=1)
    weights = np.zeros((len(names), len(first)))
    weights[first, np.arange(len(first))] = 1
    weights[second, np.arange(len(first))] = -1
    crossed = cross(hits, design, seed, resamples)
    pairs = crossed.contrasts(weights)
    table = np.array(names, dtype=object)
    winner = np.where(pairs["difference"] > 0, table[first], table[second])
    shown = np.column_stack([rows[0] for rows in hits.values()])
    own = Design(design.fixed, design.kinds, design.groups, assumed=0)
    loss = cross(nats, own, seed, resamples).contrasts(weights)
    pairs.insert(0, "a", table[first])
    pairs.insert(1, "b", table[second])
    return pairs.assign(
        p_holm=pairs["p"],
        only_a=(shown[:, first] & ~shown[:, second]).sum(axis=0),
        only_b=(shown[:, second] & ~shown[:, first]).sum(axis=0),
        # As object: pandas's string type would turn None into NaN.
        better=pd.Series(np.where(pairs["p"] <= ALPHA, winner, np.array(None)), dtype=object),
        scope=np.where(crossed.known[first] & crossed.known[second], "recipes", "models"),
        same=[
            np.array_equal(hits[names[a]], hits[names[b]])
            for a, b in zip(first, second, strict=True)
        ],
        loss_difference=loss["difference"],
        loss_low=loss["low"],
        loss_high=loss["high"],
    )


def _aligned(
    correct: Mapping[str, np.ndarray], losses: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Both with arrays (seeds, photos)."""
    if not correct or set(correct) != set(losses):
        raise ValueError(
            f"recipes are {[list(correct), list(losses)]}; allowed: the same names, at least one, "
            "in correct and losses; pass every recipe in both"
        )
    hits = {name: np.atleast_2d(correct[name]) for name in correct}
    nats = {name: np.atleast_2d(losses[name]).astype(np.float64) for name in correct}
    shapes = {name: (hits[name].shape, nats[name].shape) for name in correct}
    n = next(iter(hits.values())).shape[-1]
    if n == 0 or any(len(a) != 2 or a != b or a[1] != n for a, b in shapes.values()):
        raise ValueError(
            f"shapes of (correct, losses) are {shapes}; allowed: (seeds, n) or (n,) for all, n at "
            "least 1; compare on the same photos"
        )
    kinds = {str(rows.dtype) for rows in hits.values()}
    infinite = sum(int((~np.isfinite(rows)).sum()) for rows in nats.values())
    if kinds != {"bool"} or infinite:
        raise ValueError(
            f"correct is {', '.join(sorted(kinds))} and {infinite} losses are not finite; allowed: "
            "bool and finite floats; take both from metrics.per_photo"
        )
    return hits, nats
