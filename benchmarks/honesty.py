"""How often the comparison is wrong, in simulation: the tables of docs/honesty.md.

    OMP_NUM_THREADS=1 python benchmarks/honesty.py [--matrices 400] [--only level,power,...]

Simulated matrices: 1,000 test photos, 97.5 % accuracy. Photos differ in difficulty (shared by all
recipes), each recipe and each seed has its own luck with each photo, and seeds differ in skill.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy.stats import binom, norm
from scipy.stats import t as student

from finetune.evaluation.intervals import wilson
from finetune.evaluation.significance import ASSUMED_SD, Design, cross

PHOTOS = 1000
ACCURACY = 0.975
_DIFFICULTY = 2.3  # sd over photos, of what all recipes share
_RECIPE = 0.8  # sd of recipe x photo
_MODEL = 0.8  # sd of seed x photo
_TOTAL = float(np.sqrt(_DIFFICULTY**2 + _RECIPE**2 + _MODEL**2))
_TOP = _TOTAL * norm.ppf(ACCURACY)
RESAMPLES = 999
INDEPENDENT = Design()


def simulate(
    rng: np.random.Generator,
    recipes: int,
    seeds: int,
    sd: float | Sequence[float],
    gap: float = 0.0,
    group: int = 1,
    worse: int = 1,
) -> np.ndarray:
    """Which photos the models of a matrix get right: bool (recipes, seeds, photos).

    Arguments are as for ``margins``.
    """
    return margins(rng, recipes, seeds, sd, gap, group, worse) > 0


def margins(
    rng: np.random.Generator,
    recipes: int,
    seeds: int,
    sd: float | Sequence[float],
    gap: float = 0.0,
    group: int = 1,
    worse: int = 1,
) -> np.ndarray:
    """By how much the models of a matrix get each photo right; below 0 it is wrong.

    Args:
        recipes, seeds: of the matrix.
        sd: of the seeds' accuracies, points; one for all recipes or one each.
        gap: what the first ``worse`` recipes lack in true accuracy, points.
        group: photos of one animal; they are all right or all wrong.

    Returns:
        float (recipes, seeds, photos).
    """
    units = PHOTOS // group
    lack = _TOP - _TOTAL * norm.ppf(ACCURACY - gap / 100)
    level = _TOP - lack * (np.arange(recipes) < worse)
    slope = norm.pdf(level / _TOTAL) / _TOTAL  # accuracy per unit of skill
    skill = rng.normal(size=(recipes, seeds)) * (np.divide(sd, 100) / slope)[:, None]
    photo = rng.normal(0, _DIFFICULTY, units) + rng.normal(0, _RECIPE, (recipes, 1, units))
    luck = rng.normal(0, _MODEL, (recipes, seeds, units))
    return np.repeat((level[:, None] + skill)[:, :, None] + photo + luck, group, axis=2)


def judged(
    matrix: np.ndarray, design: Design = INDEPENDENT, seed: int = 0
) -> dict[str, np.ndarray]:
    """All pairs by the project's test: difference, low, high, p, each (pairs,)."""
    names = [f"r{i}" for i in range(len(matrix))]
    crossed = cross(dict(zip(names, matrix, strict=True)), design, seed, RESAMPLES)
    pairs = crossed.contrasts(pair_weights(len(matrix)))
    return {column: pairs[column].to_numpy() for column in pairs}


def pair_weights(recipes: int) -> np.ndarray:
    """(recipes, pairs): 1 for the first of a pair, -1 for the second."""
    first, second = np.triu_indices(recipes, k=1)
    return np.eye(recipes)[:, first] - np.eye(recipes)[:, second]


def two_locks(matrix: np.ndarray) -> np.ndarray:
    """The former rules: McNemar of one seed each with Holm, and Welch of the seeds: bool
    (pairs,).
    """
    first, second = np.triu_indices(len(matrix), k=1)
    one = matrix[:, 0]
    only_a = (one[first] & ~one[second]).sum(axis=1)
    only_b = (one[second] & ~one[first]).sum(axis=1)
    fewer = np.minimum(only_a, only_b)
    p = np.minimum(1, 2 * binom.cdf(fewer, only_a + only_b, 0.5))
    ranks = np.argsort(np.argsort(p, kind="stable"))
    holm = np.maximum.accumulate(np.sort(p) * np.arange(len(p), 0, -1))[ranks]
    if matrix.shape[1] == 1:
        return holm < 0.05
    accuracy = matrix.mean(axis=2)
    gap = (accuracy[first] - accuracy[second]).mean(axis=1)
    spread = accuracy.var(axis=1, ddof=1) / matrix.shape[1]
    error = np.maximum(spread[first] + spread[second], 1e-18)
    df = (
        (matrix.shape[1] - 1)
        * error**2
        / np.maximum(spread[first] ** 2 + spread[second] ** 2, 1e-36)
    )
    seeds = 2 * student.sf(np.abs(gap) / np.sqrt(error), df)
    return (holm < 0.05) & (seeds < 0.05) & ((gap > 0) == (only_a > only_b))


def level(matrices: int) -> Iterator[str]:
    """False "better" in matrices of equal recipes, and what the simultaneous intervals cover."""
    yield "| recipes | seeds | sd, points | false better, % | by the former rules, % | all intervals hold, % | one interval holds, % |"
    yield "|--:|--:|--:|--:|--:|--:|--:|"
    for recipes, seeds, sd in itertools.product((2, 6, 12, 36), (1, 3, 5), (0, 0.3, 0.7, 1.2)):
        yield _level_row(matrices, recipes, seeds, sd, Design(), "")
        if seeds == 1 and sd == 0:
            names = frozenset(f"r{i}" for i in range(recipes))
            yield _level_row(matrices, recipes, seeds, sd, Design(fixed=names), ", fixed")


def _level_row(
    matrices: int, recipes: int, seeds: int, sd: float, design: Design, note: str
) -> str:
    rng = np.random.default_rng([recipes, seeds, int(10 * sd)])
    counts = np.zeros(4)
    for number in range(matrices):
        matrix = simulate(rng, recipes, seeds, sd)
        pairs = judged(matrix, design, number)
        holds = (pairs["low"] <= 0) & (pairs["high"] >= 0)
        false = (pairs["p"] <= 0.05).any()
        counts += [false, two_locks(matrix).any(), holds.all(), holds.mean()]
    shares = (_share(count, matrices) for count in counts)
    return f"| {recipes} | {seeds}{note} | {sd} | {' | '.join(shares)} |"


def mixed(matrices: int) -> Iterator[str]:
    """One strategy whose recipes scatter unequally from seed to seed."""
    yield "| recipes | seeds | sd, points | false better, % |"
    yield "|--:|--:|:--|--:|"
    for recipes, seeds, noisy in ((6, 3, 3), (12, 3, 6), (12, 3, 3), (12, 5, 3)):
        rng = np.random.default_rng([recipes, seeds, noisy])
        sds = [1.2] * noisy + [0.0] * (recipes - noisy)
        false = sum(
            bool((judged(simulate(rng, recipes, seeds, sds), seed=i)["p"] <= 0.05).any())
            for i in range(matrices)
        )
        text = f"{recipes - noisy} at 0, {noisy} at 1.2"
        yield f"| {recipes} | {seeds} | {text} | {_share(false, matrices)} |"


def groups(matrices: int) -> Iterator[str]:
    """Photos that come in groups: with and without saying so."""
    yield "| photos per group | recipes | false better with groups, % | without, % | former rules, % |"
    yield "|--:|--:|--:|--:|--:|"
    for size, recipes in itertools.product((2, 5, 10), (2, 6, 12)):
        rng = np.random.default_rng([size, recipes])
        index = np.arange(PHOTOS) // size
        names = frozenset(f"r{i}" for i in range(recipes))
        false = np.zeros(3, dtype=int)
        for number in range(matrices):
            matrix = simulate(rng, recipes, 1, 0, group=size)
            told = judged(matrix, Design(fixed=names, groups=index), number)
            untold = judged(matrix, Design(fixed=names), number)
            claims = ((told["p"] <= 0.05), (untold["p"] <= 0.05), two_locks(matrix))
            false += [bool(claim.any()) for claim in claims]
        yield f"| {size} | {recipes} | {' | '.join(_share(count, matrices) for count in false)} |"


def intervals(matrices: int) -> Iterator[str]:
    """What the other intervals cover that are shown: should be 95 % (Wilson: of one model)."""
    yield "| recipes | seeds | sd, points | main effect, % | all log loss differences, % | Wilson, % |"
    yield "|--:|--:|--:|--:|--:|--:|"
    for (recipes, seeds), sd in itertools.product(
        ((2, 3), (6, 3), (12, 3), (12, 5)), (0, 0.3, 0.7)
    ):
        rng = np.random.default_rng([recipes, seeds, int(10 * sd)])
        held = np.zeros(3)
        effect = np.where(np.arange(recipes) < recipes // 2, 1, -1)[:, None] / (recipes // 2)
        names = [f"r{i}" for i in range(recipes)]
        for number in range(matrices):
            values = margins(rng, recipes, seeds, sd)
            hits = dict(zip(names, values > 0, strict=True))
            nats = dict(zip(names, np.logaddexp(0, -1.5 * values), strict=True))
            main = cross(hits, INDEPENDENT, number, RESAMPLES).contrasts(effect)
            loss = cross(nats, Design(assumed=0), number, RESAMPLES)
            pairs = loss.contrasts(pair_weights(recipes))
            low, high = wilson(int((margins(rng, 1, 1, 0) > 0).sum()), PHOTOS)
            held += [_holds(main), _holds(pairs), low <= ACCURACY <= high]
        shares = " | ".join(_share(count, matrices) for count in held)
        yield f"| {recipes} | {seeds} | {sd} | {shares} |"


def _holds(pairs: pd.DataFrame) -> bool:
    """Whether all intervals hold the truth of equal recipes."""
    return bool(((pairs["low"] <= 0) & (pairs["high"] >= 0)).all())


def power(matrices: int) -> Iterator[str]:
    """One recipe that is worse than all others: in how many of its pairs this is found."""
    yield "| recipes | seeds | sd, points | gap, points | found, % | by the former rules, % | interval holds, % |"
    yield "|--:|--:|--:|--:|--:|--:|--:|"
    cases = itertools.product(
        (2, 6, 12, 36), ((1, 0), (1, 0.3), (3, 0), (3, 0.3), (3, 0.7), (5, 0.3))
    )
    for recipes, (seeds, sd) in cases:
        for gap in (1, 2, 3, 5) if recipes < 36 else (1, 2):
            yield _power_row(matrices, recipes, seeds, sd, gap)


def _power_row(matrices: int, recipes: int, seeds: int, sd: float, gap: float) -> str:
    rng = np.random.default_rng([recipes, seeds, int(10 * sd), int(gap)])
    fixed = frozenset(f"r{i}" for i in range(recipes)) if seeds == 1 and sd == 0 else frozenset()
    found = np.zeros(3)
    asked = slice(recipes - 1)  # the first one's pairs
    for number in range(matrices):
        matrix = simulate(rng, recipes, seeds, sd, gap)
        pairs = judged(matrix, Design(fixed=fixed), number)
        right = (pairs["p"] <= 0.05) & (pairs["difference"] < 0)
        covered = (pairs["low"] <= -gap / 100) & (pairs["high"] >= -gap / 100)
        found += [right[asked].mean(), two_locks(matrix)[asked].mean(), covered[asked].mean()]
    note = ", fixed" if fixed else ""
    return f"| {recipes} | {seeds}{note} | {sd} | {gap} | {' | '.join(_share(x, matrices) for x in found)} |"


def sentences(matrices: int) -> Iterator[str]:
    """In how many matrices the report says a sentence, and in how many it is said and untrue."""
    yield "| recipes | seeds | sd, points | true effect, points | sentence | said, % | said and untrue, % |"
    yield "|--:|--:|--:|--:|:--|--:|--:|"
    cases = itertools.product(((2, 3), (6, 3), (12, 3), (36, 3)), (0, 0.3, 0.7), (0, 1))
    for (recipes, seeds), sd, gap in cases:
        yield from _sentence_rows(matrices, recipes, seeds, sd, gap)


def _sentence_rows(matrices: int, recipes: int, seeds: int, sd: float, gap: float) -> Iterator[str]:
    rng = np.random.default_rng([recipes, seeds, int(10 * sd), int(gap)])
    half = recipes // 2
    truth = np.where(np.arange(recipes) < half, -gap / 100, 0)
    weights = pair_weights(recipes)
    effect = np.where(np.arange(recipes) < half, -1, 1)[:, None] / half
    said = np.zeros(5)
    untrue = np.zeros(5)
    for number in range(matrices):
        matrix = simulate(rng, recipes, seeds, sd, gap, worse=half)
        names = [f"r{i}" for i in range(recipes)]
        crossed = cross(dict(zip(names, matrix, strict=True)), Design(), number, RESAMPLES)
        pairs = crossed.contrasts(weights)
        main = crossed.contrasts(effect).iloc[0]
        low, high, true = pairs["low"].to_numpy(), pairs["high"].to_numpy(), truth @ weights
        leader = int(crossed.mean.argmax())
        own = weights[leader]
        best = max(0, np.where(own > 0, -low, np.where(own < 0, high, 0)).max())
        claims = (pairs["p"] <= 0.05).to_numpy()
        alike = (low > -0.01) & (high < 0.01)
        shown = np.flatnonzero(claims & (own != 0))
        worst = shown[np.abs(pairs["difference"][shown]).argmax()] if len(shown) else 0
        ok = (low <= true) & (true <= high)
        small = bool(main["low"] > -0.01 and main["high"] < 0.01)
        said += [claims.any(), alike.any(), 1, len(shown) > 0, small]
        untrue += [
            bool((claims & (np.sign(true) != np.sign(pairs["difference"]))).any()),
            bool((alike & (np.abs(true) >= 0.01)).any()),
            truth.max() - truth[leader] > best,
            len(shown) > 0 and not ok[worst],
            small and gap / 100 >= 0.01,
        ]
    texts = (
        "better",
        "differ by less than 1 point",
        "no recipe is more than x points better than the leader",
        "interval of the leader's largest claim",
        "the setting has no effect beyond 1 point",
    )
    for text, count, wrong in zip(texts, said, untrue, strict=True):
        shares = f"{100 * count / matrices:.0f} | {_share(wrong, matrices)}"
        yield f"| {recipes} | {seeds} | {sd} | {gap} | {text} | {shares} |"


def _share(count: float, trials: int) -> str:
    """Percent, with its Monte Carlo standard error."""
    share = count / trials
    return f"{100 * share:.1f} ± {100 * np.sqrt(share * (1 - share) / trials):.1f}"


TABLES = {
    "level": level,
    "mixed": mixed,
    "groups": groups,
    "intervals": intervals,
    "power": power,
    "sentences": sentences,
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrices", type=int, default=400)
    parser.add_argument("--only", default=",".join(TABLES))
    arguments = parser.parse_args()
    print(f"A random recipe with one run: sd {100 * ASSUMED_SD:.1f} points is assumed.")
    for name in arguments.only.split(","):
        print(f"\n## {name}: {(TABLES[name].__doc__ or '').strip()}\n")
        for line in TABLES[name](arguments.matrices):
            print(line, flush=True)
