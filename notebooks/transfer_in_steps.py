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
# # Transfer in steps
#
# ImageNet is not the only place to start from. A network that was trained on a large set of one's own carries over to the
# next small one: here a small residual network learns the digits 0 to 4 from all that there are, and then the digits 5 to 9
# from ten of each. Every strategy starts from the same trunk (`weights: RUN`, whose file must have the digest that the run
# recorded), and two controls say what it bought: the same network from random weights, trained whole, and its random
# features under the same head. `trunk-like-scratch` is trained as the first of them is, BatchNorm's statistics included: they
# differ in where they start and in nothing else.
#
# `FINETUNE_OUT` is where everything is written, `FINETUNE_SEEDS` the number of seeds of each recipe.

# %%
import os
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import yaml
from IPython.display import display

import finetune as ft
from finetune.data import catalog

out = Path(os.environ.get("FINETUNE_OUT", "../transfer_in_steps")).absolute()
seeds = list(range(int(os.environ.get("FINETUNE_SEEDS", 3))))
FEW = 10  # training photos of each new digit
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# ## Two sets of digits
#
# scikit-learn's 1,797 scans of 8 px (`data: digits`), enlarged to 28. The old digits are one folder of class folders, which
# is split 60/20/20. Of each new digit 10 scans train, 20 choose and the rest (about 150) test.

# %%
digits = catalog.resolve("digits").root
for digit in range(5):
    shutil.copytree(digits / str(digit), out / "old" / str(digit), dirs_exist_ok=True)
for digit in range(5, 10):
    scans = sorted((digits / str(digit)).iterdir())
    parts = {"train": scans[:FEW], "validation": scans[FEW : FEW + 20], "test": scans[FEW + 20 :]}
    for split, chosen in parts.items():
        folder = out / "new" / split / str(digit)
        folder.mkdir(parents=True, exist_ok=True)
        for scan in chosen:
            shutil.copyfile(scan, folder / scan.name)

# %% [markdown]
# ## Step one: the old digits
#
# Trained from scratch, BatchNorm's statistics included.

# %%
SMALL = {"backbone": "mini-resnet", "image_size": 28, "augment": "none"}
SCRATCH = {"weights": "random", "strategy": "full", "batchnorm": "train", "learning_rate": 1e-3}
old = ft.run({**SMALL, **SCRATCH, "data": str(out / "old"), "epochs": 6}, out=out / "trunk")
low, high = old.test["accuracy_interval"]
print(f"old digits: test accuracy {old.test['accuracy']:.1%} ({low:.1%} to {high:.1%})")

# %% [markdown]
# ## Step two: the new digits, every strategy
#
# The recipes differ in what learns; `compare` gives them the same photos and shares what they share. Fifty photos in batches of
# ten are five steps in an epoch, so that training takes many epochs, and none of them ends it early.

# %%
TRUNK = {"weights": str(out / "trunk")}
LONG = {"epochs": 60, "patience": 60, "batch_size": 10}
FINE = {"learning_rate": 3e-4, **LONG}
FRESH = {"augment": {"rotation": 10.0, "zoom": 0.1, "translation": 0.05}, **LONG, "epochs": 20}
RECIPES = {
    "trunk-cached-features": {**TRUNK, "strategy": "cached-features"},
    "trunk-frozen-base": {**TRUNK, "strategy": "frozen-base", **FRESH},
    "trunk-top-block": {**TRUNK, "strategy": "top-blocks", "blocks": 1, **FINE},
    "trunk-full": {**TRUNK, "strategy": "full", **FINE},
    "trunk-like-scratch": {**SCRATCH, **TRUNK, **LONG},
    "control-scratch": {**SCRATCH, **LONG},
    "control-random-features": {"weights": "random", "strategy": "cached-features"},
}
(out / "recipes").mkdir(parents=True, exist_ok=True)
for name, recipe in RECIPES.items():
    content = {**SMALL, "data": str(out / "new"), **recipe, "matrix": {"seed": seeds}}
    (out / "recipes" / f"{name}.yaml").write_text(yaml.safe_dump(content))
compared = ft.compare(out / "recipes", out=out / "compared", photos=False)
print(compared["verdict"])

# %% [markdown]
# ## What the old digits bought
#
# Test accuracy with its 95 % interval, and the seconds of a model, extraction included.

# %%
table = pd.DataFrame(compared["ranking"]).set_index("recipe")
table[["low", "high"]] = table["accuracy_interval"].tolist()
display(table[["accuracy", "low", "high", "seeds", "cost_seconds"]].round(3))
shown = table.sort_values("accuracy")
figure, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
errors = np.array([shown["accuracy"] - shown["low"], shown["high"] - shown["accuracy"]])
colours = ["#8a8a8a" if name.startswith("control") else "#0b5394" for name in shown.index]
axes.barh(shown.index, 100 * shown["accuracy"], xerr=100 * errors, color=colours)
axes.set_xlabel("test accuracy on the digits 5 to 9, %")
plt.show()

# %% [markdown]
# ## Is it more than chance?
#
# The paired test over photos and seeds, adjusted for all pairs; differences in points, each against training from scratch.

# %%
pairs = pd.DataFrame(compared["pairs"])
own = pairs[(pairs["a"] == "control-scratch") | (pairs["b"] == "control-scratch")].copy()
sign = own["b"].eq("control-scratch").map({True: 1, False: -1})
own["recipe"] = own["a"].where(sign > 0, own["b"])
own["points over scratch"] = 100 * sign * own["difference"]
display(own[["recipe", "points over scratch", "p", "better"]].round(4).set_index("recipe"))
