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
# # The seeds of transfer learning
#
# A network that has learned to tell a thousand kinds of things apart already knows edges, textures and parts. How much of
# that can 200 small drawings of cats and dogs borrow? Three ways, from the least learning to the most:
#
# | way | what it begins with | what learns |
# |:--|:--|:--|
# | **frozen** | VGG16, trained on 1.3 million photos (ImageNet) | a logistic regression on its features |
# | **fine-tuned** | the same | its last block, too, in small steps |
# | **from scratch** | random numbers | everything, in a small network |
#
# *Before you go on*: write down which you expect to win, and by how many points.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib.ticker import MaxNLocator
from scipy.stats import binomtest

import finetune as ft

out = Path(os.environ.get("FINETUNE_OUT", "../seeds_of_transfer"))
# The drawings come with the package: no network is needed.
shared = {"data": "sketches", "image_size": 96, "seed": 0}
ways = {
    "frozen": {"backbone": "vgg16", "strategy": "cached-features"},
    "fine-tuned": {"backbone": "vgg16", "strategy": "top-blocks", "epochs": 4},
    "from scratch": {
        "backbone": "mini-resnet",
        "weights": "random",
        "strategy": "full",
        "batchnorm": "train",
        "augment": "none",
        "learning_rate": 1e-3,
        "batch_size": 16,
        "epochs": 30,
        "patience": 30,
    },
}

# %%
runs = {name: ft.run({**shared, **way}, out=out / name) for name, way in ways.items()}
rows = {
    name: {
        "accuracy": run.test["accuracy"],
        "low": run.test["accuracy_interval"][0],
        "high": run.test["accuracy_interval"][1],
        "learned": run.parameters["trainable"],
        "of": run.parameters["total"],
    }
    for name, run in runs.items()
}
table = pd.DataFrame(rows).T
display(table.style.format({"learned": "{:,.0f}", "of": "{:,.0f}"}, precision=2))

# %% [markdown]
# ## One page
#
# On the left the test accuracy with its 95 % interval; the dotted line is a coin. On the right what learning by epochs
# looked like. The frozen network has no epochs: its head is the one best logistic regression, found in a second. The
# fine-tuned one begins at that head, and the epoch with the lowest validation loss is kept: where no epoch is better than the
# start, the fine-tuned network **is** the frozen one.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
places = np.arange(len(table))
error = [table["accuracy"] - table["low"], table["high"] - table["accuracy"]]
left.errorbar(table["accuracy"], places, xerr=error, fmt="o", capsize=4)
left.axvline(0.5, linestyle=":", color="grey")
left.set(yticks=places, yticklabels=table.index, xlabel="test accuracy", xlim=(0.3, 1))
left.invert_yaxis()
for name in ("fine-tuned", "from scratch"):
    history = pd.read_csv(out / name / "history.csv")
    history = history[history["phase"] == "tail"]
    right.plot(history["epoch"], history["val_loss"], marker=".", label=name)
right.axhline(runs["frozen"].validation["loss"], linestyle="--", color="grey", label="frozen")
right.set(xlabel="epoch", ylabel="validation loss", ylim=(0.3, 1.2))
right.xaxis.set_major_locator(MaxNLocator(integer=True))
right.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Is the difference real?
#
# All three were asked about the same 100 drawings, so count only those on which two of them disagree. If both were equally
# good, either would be the right one half of the time: that is a coin, and its p-value is McNemar's exact test.


# %%
def right_on(name: str) -> pd.Series:
    """Whether each test drawing was named correctly, by file."""
    rows = pd.read_csv(out / name / "predictions.csv", dtype={"file": str, "class": str})
    rows = rows[rows["split"] == "test"].set_index("file")
    return rows[["cats", "dogs"]].idxmax(axis=1) == rows["class"]


correct = {name: right_on(name) for name in ways}
for one, other in (("frozen", "from scratch"), ("fine-tuned", "frozen")):
    first = int((correct[one] & ~correct[other]).sum())
    second = int((~correct[one] & correct[other]).sum())
    p = binomtest(first, first + second).pvalue if first + second else 1.0
    print(
        f"{one} alone is right on {first} drawings, {other} alone on {second}: p = {p:.2g}, "
        f"{'a difference' if p < 0.05 else 'no difference is shown'}"
    )

# %% [markdown]
# ## Questions
#
# 1. Which differences does the test show, and which does it not? What would you need to know more: more drawings to train on,
#    more to test on, or more seeds? (`finetune compare --dry-run` computes it.)
# 2. `from scratch` has one number more than the others that you could change: its luck. Set `seed` to 1 and 2. How far apart are
#    its accuracies, compared with the interval above?
# 3. Take 20 drawings of each kind instead of 100. Which of the three suffers most, and why?
# 4. Fine-tuning may make a good head worse. Raise `learning_rate` of `fine-tuned` to 1e-3 and look at the right-hand picture:
#    which epoch is kept?
