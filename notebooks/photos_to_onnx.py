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
# # From a folder of photos to an ONNX file
#
# Five steps: train a classifier, look at what it looks at, find its worst mistakes, write it as ONNX, and run that file
# without Keras or finetune. `FINETUNE_PHOTOS` names a folder of class folders of yours; without it, the drawn cats and
# dogs that come with the package are used, which need no network. `FINETUNE_OUT` is where everything is written.

# %%
import io
import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
from IPython.display import Image as Picture
from IPython.display import display
from PIL import Image, ImageOps

import finetune as ft
from finetune.data import catalog

photos = os.environ.get("FINETUNE_PHOTOS", "sketches")
out = Path(os.environ.get("FINETUNE_OUT", "../from_photos_to_onnx"))

# %% [markdown]
# ## Train
#
# The backbone is frozen and runs once over every photo; a logistic regression on its pooled features is fitted in about
# a second. Another head or another seed would find the activations in the store.

# %%
run = ft.run(
    data=photos, backbone="vgg16", strategy="cached-features", image_size=128, out=out / "run"
)
test = run.test
low, high = test["accuracy_interval"]
print(f"test accuracy {test['accuracy']:.1%} ({low:.1%} to {high:.1%}) on {test['n']:,} photos")
print(f"cut at {run.cut}; {run.parameters['trainable']:,} parameters learned")

# %% [markdown]
# ## Which photos are hard?
#
# `predictions.csv` in the run folder has one row per photo of validation and test. The four test photos with the largest
# loss, and the two about which the model is most certain and right:

# %%
predictions = pd.read_csv(out / "run" / "predictions.csv", dtype={"file": str, "class": str})
tested = predictions[predictions["split"] == "test"].copy()
tested["of the true class"] = [row[row["class"]] for _, row in tested.iterrows()]
worst, easy = tested.nsmallest(4, "of the true class"), tested.nlargest(2, "of the true class")
display(pd.concat([worst, easy])[["file", "class", "of the true class"]])

# %% [markdown]
# ## What does it look at?
#
# Grad-CAM colours where the evidence for a class lies in the last maps, and in an earlier layer beside it. It shows
# where, and not why: a warm animal is a good sign, a warm corner of the background is a reason to look at the photos.

# %%
root = catalog.resolve(photos).root
chosen = [root / file for file in pd.concat([easy, worst])["file"]]
classifier = ft.Classifier.open(out / "run")
layers = ["block4_conv3", "block5_conv3"]
explained = ft.explain(classifier, chosen, layers=layers, out=out / "explained")
for page in explained["contact"]:
    sheet = Image.open(page).convert("RGB")
    sheet.thumbnail((480, 2000))  # the file itself is larger
    small = io.BytesIO()
    sheet.save(small, "JPEG", quality=85)
    display(Picture(small.getvalue()))

# %% [markdown]
# ## Predict photos
#
# `ft.predict` takes files and folders and decodes them as in training. A file that is no photo gets a reason instead of
# a class.

# %%
(out / "notes.jpg").write_text("no photo")
rows = []
for photo in ft.predict(classifier, [*chosen[:3], out / "notes.jpg"], top=2):
    name, probability = photo.top[0] if photo.top else (None, None)
    row = {"file": Path(photo.file).name, "class": name, "probability": probability}
    rows.append({**row, "bad": photo.bad})
table = pd.DataFrame(rows)
display(table)

# %% [markdown]
# ## Export
#
# The file is written by Keras's exporter, then run by its own runtime on eight photos: if its probabilities differ from
# Keras's by more than 1e-4, nothing is left behind. Preprocessing is inside, so it takes raw `uint8` RGB photos;
# `model.json` beside it says so, and names the classes.

# %%
exported = ft.export(classifier, format="onnx", out=out / "onnx")
print(
    f"largest difference {exported['max_difference']:.1e} on {exported['photos']} photos, by {exported['runtime']}"
)
for file in exported["files"]:
    print(f"{file['name']}: {file['bytes'] / 2**20:.1f} MiB")

# %% [markdown]
# ## Use it without Keras
#
# All that is needed from here on is onnxruntime, NumPy and Pillow.

# %%
contract = json.loads((out / "onnx" / "model.json").read_text())
size = contract["input"]["shape"][1]
session = onnxruntime.InferenceSession(
    out / "onnx" / "model.onnx", providers=["CPUExecutionProvider"]
)
pixels = [
    np.asarray(
        ImageOps.exif_transpose(Image.open(path))
        .convert("RGB")
        .resize((size, size), Image.Resampling.BILINEAR)
    )
    for path in chosen[:3]
]
(probabilities,) = session.run(None, {session.get_inputs()[0].name: np.stack(pixels)})
for path, row in zip(chosen, probabilities, strict=False):
    print(f"{path.name}: {contract['classes'][row.argmax()]} {row.max():.3f}")
assert [contract["classes"][row.argmax()] for row in probabilities] == list(table["class"][:3])
