"""What stored features say before any training: transferability, probes, curve, suspects.

Everything is a function of features (n, d), labels (n,) and, where photos belong together, groups
(n,). Folds never part a group. Needs no Keras.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from sklearn.covariance import ledoit_wolf
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

_FOLDS = 5
_NEIGHBOURS = 5
_COMPONENTS = 256  # principal ones that probes see: more take time and change little
_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)  # inverse ones of the probe, on features of one scale
_STEPS = 200  # of L-BFGS
_HALVINGS = 4  # of the photos, below the largest subset of a learning curve
_DRAWS = 1_000  # of groups of photos, for the band of a learning curve
_TINY = 1e-12
_OUTLYING = 6.0  # robust standard deviations


def log_me(features: np.ndarray, labels: np.ndarray) -> float:
    """Maximum log evidence of a Bayesian linear model, per photo, averaged over the classes (nats).

    You et al., LogME: Practical Assessment of Pre-trained Models for Transfer Learning, ICML 2021,
    arXiv:2102.11005; the fixed point is that of their follow-up, arXiv:2110.10545. The
    higher, the better.
    """
    left, singular, _ = np.linalg.svd(features.astype(np.float64), full_matrices=False)
    kept = singular > 1e-10 * singular.max()
    sigma = (singular[kept] / singular.max()) ** 2
    classes = np.unique(labels)
    return float(np.mean([_evidence(left[:, kept], sigma, labels == c) for c in classes]))


def _evidence(left: np.ndarray, sigma: np.ndarray, target: np.ndarray) -> float:
    y = target.astype(np.float64)
    n = len(y)
    z = (left.T @ y) ** 2
    outside = y @ y - z.sum()
    alpha = 1.0
    beta = 1.0
    for _ in range(100):
        ratio = alpha / beta
        gamma = (sigma / (sigma + ratio)).sum()
        size = (sigma * z / (sigma + ratio) ** 2).sum()
        error = (z * (ratio / (sigma + ratio)) ** 2).sum() + outside
        alpha = max(gamma, _TINY) / max(size, _TINY)
        beta = max(n - gamma, _TINY) / max(error, _TINY)
        if abs(alpha / beta - ratio) <= 1e-4 * ratio:
            break
    ratio = alpha / beta
    size = (sigma * z / (sigma + ratio) ** 2).sum()
    error = (z * (ratio / (sigma + ratio)) ** 2).sum() + outside
    evidence = len(sigma) * np.log(alpha) + n * np.log(beta) - n * np.log(2 * np.pi)
    evidence -= np.log(alpha + beta * sigma).sum() + beta * error + alpha * size
    return float(evidence / (2 * n))


def h_score(features: np.ndarray, labels: np.ndarray, shrinkage: float | None = None) -> float:
    """Between-class variance of the whitened features: 0 to classes - 1, higher is better.

    Bao et al., An Information-Theoretic Approach to Transferability in Task Transfer Learning, ICIP
    2019; with the covariance of Ledoit and Wolf, without which it is degenerate where there are
    more features than photos (Ibrahim et al., ECML PKDD 2022, arXiv:2110.06893).

    Args:
        features: (n, d).
        labels: (n,).
        shrinkage: weight of the covariance's diagonal form, 0 to 1; None is Ledoit and Wolf's.
    """
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    if not centred.any():
        return 0.0
    centred /= centred.std()
    if shrinkage is None:
        covariance, weight = ledoit_wolf(centred, assume_centered=True)
    else:
        plain = centred.T @ centred / len(centred)
        weight = shrinkage
        diagonal = np.trace(plain) / len(plain) * np.eye(len(plain))
        covariance = (1 - weight) * plain + weight * diagonal
    means = np.zeros_like(centred)
    for label in np.unique(labels):
        means[labels == label] = centred[labels == label].mean(axis=0)
    between = means.T @ means / len(means)
    return float((1 - weight) * np.trace(np.linalg.lstsq(covariance, between, rcond=None)[0]))


class Folds(NamedTuple):
    """(photos to fit, photos held out) of each fold, as indexes."""

    pairs: tuple[tuple[np.ndarray, np.ndarray], ...]


def folds(labels: np.ndarray, groups: np.ndarray, seed: int = 0) -> Folds:
    """Five folds (fewer for classes that are smaller), stratified; a group lies in one of them."""
    smallest = min(len(np.unique(groups[labels == label])) for label in np.unique(labels))
    split = StratifiedGroupKFold(max(2, min(_FOLDS, smallest)), shuffle=True, random_state=seed)
    return Folds(tuple(split.split(np.zeros(len(labels)), labels, groups)))


def reduced(features: np.ndarray) -> np.ndarray:
    """Centred features of one scale, on at most 256 principal components; labels are not used."""
    wide = min(_COMPONENTS, *features.shape)
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    if not centred.any():
        return centred[:, :wide]
    # of one scale before, too: features of random weights can be as small as 1e-10
    scaled = centred / centred.std()
    found = PCA(wide, svd_solver="randomized", random_state=0).fit_transform(scaled)
    return found / found.std()


@dataclass(frozen=True)
class Probe:
    """Out-of-fold answers of a linear classifier.

    ``probabilities``: float (n, classes), ``correct``: bool (n,), ``c``: its inverse penalty.
    """

    probabilities: np.ndarray
    correct: np.ndarray
    c: float


def linear_probe(features: np.ndarray, labels: np.ndarray, parts: Folds) -> Probe:
    """Logistic regression by cross-validation.

    The penalty with the lowest out-of-fold log loss is kept: one number, chosen on the photos that
    it is measured on.

    Args:
        features: see ``reduced``.
        labels: int (n,), 0 to classes - 1.
        parts: see ``folds``.
    """
    best = Probe(np.empty(0), np.empty(0), 0.0)
    lowest = np.inf
    for c in _PENALTIES:
        probabilities = np.zeros((len(labels), labels.max() + 1))
        for fitted, held in parts.pairs:
            model = _fitted(features[fitted], labels[fitted], c)
            probabilities[np.ix_(held, model.classes_)] = model.predict_proba(features[held])
        own = probabilities[np.arange(len(labels)), labels]
        loss = -np.log(np.maximum(own, _TINY)).mean()
        if loss >= lowest:
            break
        lowest = loss
        best = Probe(probabilities, probabilities.argmax(axis=1) == labels, c)
    return best


def _fitted(features: np.ndarray, labels: np.ndarray, c: float) -> LogisticRegression:
    return LogisticRegression(C=c, max_iter=_STEPS).fit(features, labels)


def neighbours_correct(features: np.ndarray, labels: np.ndarray, parts: Folds) -> np.ndarray:
    """Whether 5 nearest neighbours of other folds (cosine) vote for a photo's class: bool (n,)."""
    correct = np.zeros(len(labels), bool)
    for fitted, held in parts.pairs:
        wanted = min(_NEIGHBOURS, len(fitted))
        model = KNeighborsClassifier(wanted, metric="cosine").fit(features[fitted], labels[fitted])
        correct[held] = model.predict(features[held]) == labels[held]
    return correct


class Point(NamedTuple):
    """A learning curve at a number of training photos: accuracy and 95 % interval, 0 to 1."""

    photos: int
    accuracy: float
    interval: tuple[float, float]
    extrapolated: bool


def learning_curve(
    features: np.ndarray,
    labels: np.ndarray,
    parts: Folds,
    c: float,
    groups: np.ndarray,
    seed: int = 0,
) -> list[Point]:
    """Accuracy of the probe on nested subsets, halved four times, and at twice the photos.

    The error is extrapolated as a power law, b n^-c (Hestness et al. 2017, arXiv:1712.00409),
    through the three largest subsets. Intervals are percentiles of what resampled groups of photos
    give: they hold the photos' chance, and not that the law might bend.

    Args:
        features, labels, parts: as for ``linear_probe``.
        c: the probe's inverse penalty.
        groups: int (n,), as for ``folds``, from 0.
        seed: of the subsets and of the resampling.
    """
    generator = np.random.default_rng(seed)
    orders = [fitted[_balanced(labels[fitted], generator)] for fitted, _ in parts.pairs]
    whole = min(map(len, orders))
    seconds = [np.argmax(labels[order] != labels[order[0]]) for order in orders]
    least = max(2 * (labels.max() + 1), 1 + max(seconds))  # of one class there is nothing to fit
    sizes = sorted({whole >> k for k in range(_HALVINGS + 1) if whole >> k >= least} | {whole})
    wrong = np.zeros((len(sizes), len(labels)))
    for row, size in enumerate(sizes):
        for order, (_, held) in zip(orders, parts.pairs, strict=True):
            model = _fitted(features[order[:size]], labels[order[:size]], c)
            wrong[row, held] = model.predict(features[held]) != labels[held]
    n = groups.max() + 1
    drawn = generator.multinomial(n, np.full(n, 1 / n), _DRAWS)[:, groups]
    errors = wrong @ drawn.T / drawn.sum(axis=1)  # (sizes, draws)
    points = [
        Point(size, 1 - wrong[row].mean(), _band(1 - errors[row]), False)
        for row, size in enumerate(sizes)
    ]
    if len(sizes) > 1:
        smooth = 0.5 / len(labels)  # so that no error is 0
        further = _extrapolated(sizes, errors + smooth, 2 * whole)
        middle = _extrapolated(sizes, wrong.mean(axis=1)[:, None] + smooth, 2 * whole)
        points.append(Point(2 * whole, float(1 - middle[0]), _band(1 - further), True))
    return points


def _balanced(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """An order of which each beginning holds the classes in equal parts, as far as they go."""
    shuffled = generator.permutation(len(labels))
    place = np.zeros(len(labels))
    for label in np.unique(labels):
        own = shuffled[labels[shuffled] == label]
        place[own] = (np.arange(len(own)) + 0.5) / len(own)
    return np.argsort(place, kind="stable")


def _extrapolated(sizes: Sequence[int], errors: np.ndarray, photos: int) -> np.ndarray:
    """Errors (sizes, draws) by a line through the last three logarithms; it never rises."""
    x = np.log(sizes[-3:])
    y = np.log(errors[-3:])
    slope = ((x - x.mean()) @ (y - y.mean(axis=0))) / ((x - x.mean()) ** 2).sum()
    return np.exp(y.mean(axis=0) + np.minimum(slope, 0) * (np.log(photos) - x.mean()))


def _band(values: np.ndarray) -> tuple[float, float]:
    low, high = np.clip(np.quantile(values, [0.025, 0.975]), 0, 1)
    return float(low), float(high)


class Suspect(NamedTuple):
    """A photo whose label is doubted: its row, the class that it looks like, two probabilities."""

    row: int
    looks_like: int
    probability: float
    of_label: float


def label_suspects(probabilities: np.ndarray, labels: np.ndarray) -> list[Suspect]:
    """Likely label errors, the most likely first, by confident learning.

    Northcutt et al., Confident Learning, JAIR 70 (2021), arXiv:1911.00068: a photo is doubted if
    another class has at least the probability that photos of that class have on average.

    Args:
        probabilities: out-of-fold ones, (n, classes).
        labels: int (n,).
    """
    classes = np.arange(probabilities.shape[1])
    usual = [probabilities[labels == c, c].mean() if (labels == c).any() else 2.0 for c in classes]
    confident = np.where(probabilities >= usual, probabilities, -1.0)
    likely = confident.argmax(axis=1)
    doubted = np.flatnonzero((confident.max(axis=1) > 0) & (likely != labels))
    own = probabilities[np.arange(len(labels)), labels]
    found = [
        Suspect(int(i), int(likely[i]), float(probabilities[i, likely[i]]), float(own[i]))
        for i in doubted
    ]
    return sorted(found, key=lambda suspect: suspect.of_label - suspect.probability)


def outliers(features: np.ndarray) -> Iterator[tuple[int, float]]:
    """Photos far from any other: (index, distance in robust standard deviations), farthest first.

    The distance is the mean cosine distance to the 5 nearest neighbours.
    """
    wanted = min(_NEIGHBOURS + 1, len(features))
    model = NearestNeighbors(n_neighbors=wanted, metric="cosine").fit(features)
    distance = model.kneighbors(features)[0][:, 1:].mean(axis=1)
    middle = np.median(distance)
    spread = 1.4826 * np.median(np.abs(distance - middle)) or 1.0
    score = (distance - middle) / spread
    for index in np.argsort(-score, kind="stable"):
        if score[index] < _OUTLYING:
            return
        yield int(index), float(score[index])
