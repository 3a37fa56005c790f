"""Should a linear head's features be scaled each by itself, or all by one factor? Validation
decides, test is shown.

finetune extract-features --backbone vgg16 --out features
python benchmarks/head_scaling.py features
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from finetune.evaluation.metrics import summarize

SCALES = {"each by itself": lambda x: x.std(axis=0) + 1e-12, "one factor": lambda x: x.std()}


def main(folder: Path) -> None:
    """Print validation and test figures of the best penalty of each way."""
    features, index = np.load(folder / "features.npy"), pd.read_csv(folder / "index.csv")
    rows = {name: (index["split"] == name).to_numpy() for name in ("train", "validation", "test")}
    labels = index["label"].to_numpy()
    for way, scale in SCALES.items():
        train = features[rows["train"]]
        scaled = (features - train.mean(axis=0)) / scale(train)
        found = []
        for c in 10.0 ** np.arange(-4, 1.5, 0.5):
            model = LogisticRegression(C=c, max_iter=3000).fit(
                scaled[rows["train"]], labels[rows["train"]]
            )
            measured = {
                n: summarize(model.predict_proba(scaled[rows[n]]), labels[rows[n]])
                for n in ("validation", "test")
            }
            found.append((measured["validation"]["loss"], c, measured))
        _, c, best = min(found, key=lambda row: row[0])
        figures = ", ".join(
            f"{n} loss {m['loss']:.4f} accuracy {m['accuracy']:.3f}" for n, m in best.items()
        )
        print(f"{way}: C {c:g}, {figures}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
