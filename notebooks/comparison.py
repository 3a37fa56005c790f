# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A comparison, walked through
#
# `finetune compare` writes a folder: one run folder per cell under `cells/`, and a report on top of them. This notebook
# reads that folder again, from the files upwards, and asks of it what one should ask before believing a ranking:
# what was run, whether the differences are real, whether the probabilities can be believed, and what accuracy costs.
#
# It reads files and computes with NumPy and pandas; TensorFlow is not imported. `FINETUNE_COMPARED` names the folder
# to read; two recipes or more must have been finished on the same photos. To walk through a comparison of your own:
#
#     FINETUNE_COMPARED=$PWD/compared jupytext --to ipynb --execute notebooks/comparison.py

# %%
import json
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib.ticker import LogLocator, NullFormatter

from finetune.evaluation.metrics import reliability_curve
from finetune.report import sentences
from finetune.report.figures import duration, pareto_front
from finetune.report.sections import sections
from finetune.runs.predictions import read_predictions

compared = Path(os.environ.get("FINETUNE_COMPARED", "../compared"))
pd.options.display.precision = 3
plt.rcParams.update(
    {"axes.spines.top": False, "axes.spines.right": False, "figure.constrained_layout.use": True}
)
BLUE, GREY = "#0b5394", "#8a8a8a"

# %% [markdown]
# ## What was run
#
# `results.csv` has one row per cell, that is per recipe and seed. A cell that failed or diverged keeps its row and says
# why; none is dropped in silence. `cost_seconds` shares each extraction among the cells that used it,
# `cost_seconds_alone` is what the cell would have cost by itself.

# %%
results = pd.read_csv(compared / "results.csv")
columns = [
    "recipe",
    "seed",
    "status",
    "strategy",
    "head",
    "cut",
    "validation_accuracy",
    "test_accuracy",
]
display(results[[*columns, "cost_seconds", "cost_seconds_alone"]])

# %% [markdown]
# Only what was measured on the same photos can be ranked. Cells are therefore put into sections by the digest of their
# split; the section with the most recipes is the subject from here on. Where a recipe was run with several seeds, one
# run stands for it: that with the median validation loss. Choosing the seed with the best test accuracy instead would
# reward recipes for being run often.

# %%
cells = json.loads((compared / "compare.json").read_text())["cells"]
section, *others = sections(compared, cells)
recommended, best = section.recommended
print(
    f"{section.data}: {section.photos:,} test photos of {', '.join(section.classes)}; split {section.split[:16]}"
)
print(
    f"{len(section.entries)} recipes here, {sum(len(other.entries) for other in others)} on other photos"
)
for name, reason in section.left_out:
    print(f"left out: {name} ({reason})")

# %% [markdown]
# ## One run folder
#
# Three files of a run folder hold what was measured. The example is the recipe that the report recommends: the
# cheapest one whose *validation* accuracy is within one standard error of the best. The test photos have no say in that
# choice, or their accuracy would no longer be an honest estimate.
#
# `metrics.json` sums up both splits. The interval is Wilson's, 95 %.

# %%
run = compared / recommended.shown["run"]
metrics = json.loads((run / "metrics.json").read_text())
print(
    f"{run.name}: cut at {metrics['cut']}, {metrics['parameters']['trainable']:,} trained parameters"
)
low, high = metrics["test"]["accuracy_interval"]
print(f"test accuracy {metrics['test']['accuracy']:.1%}, interval {low:.1%} to {high:.1%}")
summary = pd.DataFrame({split: metrics[split] for split in ("validation", "test")})
display(
    summary.drop(index=["per_class", "accuracy_interval", "top_confusions", "zero_recall"]).astype(
        float
    )
)
display(pd.DataFrame(metrics["test"]["per_class"]))

# %% [markdown]
# `history.csv` has one row per epoch, epoch 0 being the state before training. Of all epochs, the one with the lowest
# validation loss is kept. A head that was fitted by L-BFGS has no epochs, and an empty history.

# %%
history = pd.read_csv(run / "history.csv")
display(history if len(history) else "no epochs: the head was fitted by L-BFGS")

# %% [markdown]
# `predictions.csv` has one row per photo and one column per class. Everything in `metrics.json` can be computed from it
# again; here, the test accuracy. It also names the photos that deserve a look: those that the model got wrong while
# being most certain.

# %%
classes, predictions = read_predictions(run)
test = predictions["test"]
photos = recommended.photos.assign(file=recommended.test.files)
assert np.isclose(
    np.mean(test.probabilities.argmax(axis=1) == test.labels), metrics["test"]["accuracy"]
)
wrong = photos[~photos["correct"]].nlargest(5, "confidence")
display(
    wrong.assign(predicted=[classes[label] for label in wrong["predicted"]])[
        ["file", "predicted", "confidence"]
    ]
)

# %% [markdown]
# ## Are the differences real?
#
# All recipes saw the same test photos, so they are compared photo by photo. Another test set would hold other photos, and
# another training run would give another model: **one test** takes both as drawn by chance. It divides the difference of
# two recipes by its standard error, and asks how large the largest of these ratios would become if no recipe differed,
# by flipping the signs of photos and drawing seed effects. The chance of even one false alarm among all pairs is at most
# 5 %, and the intervals hold for all pairs at once. With one seed, or few, a claim is about these trained models
# (`scope`) and no more. `docs/honesty.md` says how often all this is wrong.

# %%
pairs, groups = section.pairs, section.groups
print(f"{pairs['better'].notna().sum()} of {len(pairs)} pairs are told apart; the smallest p:")
columns = ["a", "b", "difference", "low", "high", "only_a", "only_b", "p", "better", "scope"]
display(pairs.nsmallest(10, "p")[columns])

# %% [markdown]
# From the pairs follow groups. The most accurate recipe leads group 1, together with all that it does not beat; the
# most accurate of the rest leads group 2, and so on. Inside a group the order is by cost, cheapest first, because
# accuracy gives no reason for another; costs within 20 % are equal, and then the simpler recipe comes first.

# %%
display(groups)
print(section.verdict)

# %% [markdown]
# "Not told apart" is not "equal". Two recipes are called equal only where the whole interval lies within a margin that
# does not matter, one point unless the comparison says otherwise. For all others there is a bound: by how much could any
# recipe be better than this one?

# %%
bounds = {entry.name: 100 * sentences.bound(pairs, entry.name) for entry in section.entries}
display(pd.Series(bounds, name="at most so much worse, points").to_frame().round(1))
for finding in section.findings:
    print(finding)

# %% [markdown]
# The plot shows the lead of the most accurate recipe over each of the others, with simultaneous 95 % intervals; filled marks
# are the pairs that are told apart. The shaded band holds the differences that do not matter.

# %%
leader = groups["recipe"][groups["accuracy"].idxmax()]
led = pairs[(pairs["a"] == leader) | (pairs["b"] == leader)]
flip = np.where(led["a"] == leader, 1, -1)
other = pd.Series(np.where(led["a"] == leader, led["b"], led["a"]), name="recipe")
lead = 100 * led[["difference", "low", "high"]].to_numpy() * flip[:, None]
lead[flip < 0, 1:] = lead[flip < 0, :0:-1]  # a turned interval changes its ends, too
order = np.argsort(-lead[:, 0], kind="stable")

figure, axes = plt.subplots(figsize=(7, 1.2 + 0.3 * len(led)))
limit = 100 * section.margin
axes.axvspan(-limit, limit, color="#eeeeee", label="does not matter")
for y, i in enumerate(order):
    apart = pd.notna(led["better"].iloc[i])
    axes.plot(lead[i, 1:], [y, y], color=BLUE)
    axes.plot(lead[i, 0], y, "o", color=BLUE, markerfacecolor=BLUE if apart else "white")
axes.axvline(0, color="black", linewidth=0.6)
axes.set_yticks(range(len(order)), other.iloc[order])
axes.set_xlabel(f"lead of {leader}, points of test accuracy")
axes.margins(y=0.2 if len(led) < 5 else 0.03)
figure.legend(loc="outside upper right", frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# ## Can the probabilities be believed?
#
# A calibrated model that says 80 % is right four times in five. The **expected calibration error** (ECE) is the mean
# distance of confidence and accuracy over bins of confidence. Dividing all logits by one number, the **temperature**, often shortens it:
# above 1 it softens a model that is too sure of itself, below 1 it sharpens one that is too modest. It is fitted on
# validation and cannot change which class comes first. It need not help: temperature scaling corrects what validation
# and test have in common, and the ECE itself is biased upwards when photos are few.

# %%
calibration = {
    entry.name: {
        "temperature": entry.temperature,
        "log loss": entry.shown["test"]["loss"],
        "ECE": entry.shown["test"]["ece"],
        "ECE, scaled": entry.scaled_ece,
    }
    for entry in section.entries
}
display(pd.DataFrame(calibration).T)

# %% [markdown]
# The reliability diagram of the recommended recipe: below the diagonal it is too sure, above it too modest. The area of
# a circle grows with the number of photos in its bin; small circles wander by chance.

# %%
figure, axes = plt.subplots(figsize=(4.2, 4))
floor = 1 / len(classes)
axes.plot([floor, 1], [floor, 1], color="black", linewidth=0.6)
shown = {
    "as trained": (recommended.test.probabilities, GREY),
    "temperature-scaled": (recommended.scaled, BLUE),
}
for label, (probabilities, color) in shown.items():
    curve = reliability_curve(probabilities, recommended.test.labels)
    area = 20 + 400 * curve["n"] / section.photos
    axes.plot(curve["confidence"], curve["accuracy"], color=color, linewidth=0.8, alpha=0.6)
    axes.scatter(curve["confidence"], curve["accuracy"], area, color=color, alpha=0.6, linewidth=0)
    axes.plot([], [], "o", color=color, alpha=0.6, label=label)
axes.set(xlabel="confidence", ylabel="accuracy", ylim=(-0.05, 1.05))
axes.set_title(recommended.name, fontsize=10)
axes.legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# ## What does accuracy cost?
#
# Cost is time on the machine that ran the comparison, extraction shared, averaged over seeds; whiskers are Wilson's 95 %
# intervals of the run that stands for the recipe. The stairs join the recipes that no other equals or beats in both cost
# and accuracy (ties aside). They take the test accuracies as they stand: a step between two recipes that
# the section above could not tell apart is no reason to pay more.

# %%
known = [entry for entry in section.entries if np.isfinite(entry.cost("seconds"))]
seconds = np.array([entry.cost("seconds") for entry in known])
accuracy = 100 * np.array([entry.shown["test"]["accuracy"] for entry in known])
interval = 100 * np.array([entry.shown["test"]["accuracy_interval"] for entry in known])
on_front = pareto_front(seconds, accuracy)
stairs = np.flatnonzero(on_front)[np.argsort(seconds[on_front])]

figure, axes = plt.subplots(figsize=(7, 3.8))
axes.errorbar(
    seconds, accuracy, abs(interval.T - accuracy), fmt="none", ecolor=GREY, elinewidth=0.8
)
steps = [*seconds[stairs], seconds.max()], [*accuracy[stairs], accuracy[stairs[-1]]]
axes.plot(*steps, drawstyle="steps-post", color=BLUE, linewidth=0.8)
axes.scatter(seconds, accuracy, color=np.where(on_front, BLUE, GREY), zorder=3)
for number, (x, y) in enumerate(zip(seconds, accuracy, strict=True), start=1):
    axes.annotate(str(number), (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8)
axes.set(xscale="log", xlabel="cost", ylabel="test accuracy, %")
axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
axes.xaxis.set_major_formatter(lambda value, _: duration(value))
axes.xaxis.set_minor_formatter(NullFormatter())
plt.show()
costs = {
    "recipe": [entry.name for entry in known],
    "seconds": seconds,
    "accuracy, %": accuracy,
    "on the front": on_front,
}
display(pd.DataFrame(costs, index=pd.RangeIndex(1, len(known) + 1)))

# %% [markdown]
# ## What to take home
#
# Two answers, made on different grounds: what to use, chosen on validation alone, and what the test photos prove.

# %%
print(f"Use {recommended.name}; the best on validation is {best.name}.")
print(f"{section.verdict}.")
