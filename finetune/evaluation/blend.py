"""Combining classifiers by the probabilities that they gave: weights, temperatures, and whether it pays.

Everything is fitted on validation; the test split is only looked at. Everywhere ``probabilities`` holds one float array
(n, classes) per member, whose rows sum to 1, all for the same photos in the same order.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize

from finetune.evaluation.metrics import CLIP, fit_temperature, per_photo
from finetune.evaluation.power import ALPHA, minimum_detectable_difference
from finetune.evaluation.significance import compare_pairs

LEAST_WEIGHT = 0.01  # a member with less is left out: it would cost a whole network


@dataclass(frozen=True)
class Blend:
    """One way of combining members: the mean of softmax(log p / T), weighted.

    Attributes:
        weights: (members,) 0 to 1, their sum is 1.
        temperatures: (members,) above 0; 1 leaves a member as it is.
    """

    weights: tuple[float, ...]
    temperatures: tuple[float, ...]

    def apply(self, probabilities: Sequence[np.ndarray]) -> np.ndarray:
        """The blended probabilities, float64 (n, classes)."""
        scaled = [
            _scaled(p, temperature)
            for p, temperature in zip(probabilities, self.temperatures, strict=True)
        ]
        return np.tensordot(self.weights, scaled, axes=1)


def fit_mean(probabilities: Sequence[np.ndarray], labels: np.ndarray) -> Blend:
    """The plain mean: nothing is fitted, so nothing can be overfitted."""
    count = len(probabilities)
    return Blend((1 / count,) * count, (1.0,) * count)


def fit_weighted(probabilities: Sequence[np.ndarray], labels: np.ndarray) -> Blend:
    """Temperatures by ``metrics.fit_temperature``, then the weights of the lowest log loss.

    A mean of calibrated members can be underconfident (Rahaman & Thiery 2021, "Uncertainty Quantification and Deep
    Ensembles"), so members as they are, with weights of their own, are tried as well, and the lower loss is taken. Its
    loss is therefore at most that of every member and of the plain mean, but for what ``LEAST_WEIGHT`` takes away.

    Args:
        probabilities: of the validation photos.
        labels: int (n,), values 0 to classes - 1.
    """
    fitted = tuple(fit_temperature(p, labels) for p in probabilities)
    candidates = []
    for temperatures in (fitted, (1.0,) * len(fitted)):
        scaled = [
            _scaled(p, temperature)
            for p, temperature in zip(probabilities, temperatures, strict=True)
        ]
        of_label = np.column_stack([p[np.arange(len(labels)), labels] for p in scaled])
        candidates.append(Blend(tuple(fit_weights(of_label).tolist()), temperatures))
    return min(
        candidates, key=lambda blend: per_photo(blend.apply(probabilities), labels)["loss"].mean()
    )


# What `--blend` chooses from.
BLENDS: dict[str, Callable[[Sequence[np.ndarray], np.ndarray], Blend]] = {
    "mean": fit_mean,
    "weighted": fit_weighted,
}


def fit_weights(of_label: np.ndarray) -> np.ndarray:
    """The weights on the simplex whose mixture has the lowest log loss; it is convex in them.

    Args:
        of_label: (n, members), the probability of each photo's own class.

    Returns:
        (members,) with sum 1; weights under ``LEAST_WEIGHT`` are 0, and the others are scaled up to sum 1 again.
    """
    likely = np.maximum(of_label, CLIP)

    # The sum of the weights stands in for their constraint: along any ray from 0 this is least where they sum to 1.
    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = likely @ weights
        return weights.sum() - np.log(mixed).mean(), 1 - (likely / mixed[:, None]).mean(axis=0)

    members = likely.shape[1]
    options = {"ftol": 1e-14, "gtol": 1e-9, "maxiter": 1000}
    found = minimize(
        loss, np.full(members, 1 / members), jac=True, bounds=[(0, None)] * members, options=options
    )
    weights = found.x / found.x.sum()
    kept = np.where(weights < LEAST_WEIGHT, 0.0, weights)
    return kept / kept.sum()


def paired_tests(
    blends: Mapping[str, np.ndarray], members: Mapping[str, np.ndarray], labels: np.ndarray
) -> list[dict[str, Any]]:
    """Every blend against every member on the test photos.

    Args:
        blends, members: name -> probabilities of the test photos.
        labels: int (n,).

    Returns:
        One dict per pair: blend, member; difference (accuracy of the blend minus that of the member, fraction) with low
        and high (95 %, paired bootstrap); only_blend, only_member (photos that one alone gets right); p (McNemar,
        exact), p_holm (Holm, over all pairs, those between members included, as in the report); loss_difference (nats)
        with loss_low, loss_high; better (the winner's name, or None); detectable (a true difference of accuracy that
        would be found four times in five, None if there is none).
    """
    photos = {name: per_photo(values, labels) for name, values in {**blends, **members}.items()}
    correct, losses = (
        {name: rows[key].to_numpy() for name, rows in photos.items()} for key in ("correct", "loss")
    )
    found = compare_pairs(correct, losses).rename(
        columns={"a": "blend", "b": "member", "only_a": "only_blend", "only_b": "only_member"}
    )
    shares, level = (found["only_blend"] + found["only_member"]) / len(labels), ALPHA / len(found)
    smallest = [minimum_detectable_difference(len(labels), share, level) for share in shares]
    found["detectable"] = np.array(
        [None if np.isnan(size) else size for size in smallest], dtype=object
    )
    asked = found[found["blend"].isin(blends) & found["member"].isin(members)]
    rows = asked.drop(columns=["seed_difference", "p_seeds"]).to_dict("records")
    return [{str(key): value for key, value in row.items()} for row in rows]


def verdict(pair: Mapping[str, Any], photos: int) -> str:
    """Whether combining pays, in one sentence.

    Args:
        pair: from ``paired_tests``: the blend and its best member by validation loss.
        photos: size of the test split.
    """
    blend, member = pair["blend"], pair["member"]
    outcome = {
        blend: "Combining pays",
        member: "Combining does harm",
        None: "Combining does not measurably pay",
    }
    size, low, high = (100 * pair[key] for key in ("difference", "low", "high"))
    p = "p < 0.001" if pair["p_holm"] < 0.001 else f"p = {pair['p_holm']:.2g}"
    sentence = (
        f"{outcome[pair['better']]}: {blend} differs from {member}, its best member by validation loss, by {size:+.1f} points "
        f"({low:+.1f} to {high:+.1f}, {p}) on {photos:,} test photos, and in log loss by {pair['loss_difference']:+.4f} "
        f"({pair['loss_low']:+.4f} to {pair['loss_high']:+.4f})"
    )
    if pair["better"]:
        return f"{sentence}."
    if pair["detectable"] is None:
        return f"{sentence}; so few photos cannot show any difference."
    return f"{sentence}; a true difference of {100 * pair['detectable']:.1f} points would be found four times in five."


def _scaled(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(log p / T) without the clipping of ``metrics.apply_temperature``, so that a network can compute it, too."""
    powers = np.asarray(probabilities, dtype=np.float64) ** (1 / temperature)
    return powers / powers.sum(axis=1, keepdims=True)
