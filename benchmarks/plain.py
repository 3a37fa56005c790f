"""Plain Keras, as tutorials and notebooks write it: image_dataset_from_directory, the whole model,
default compile.

Each job prints one JSON object: seconds (imports not counted), seconds of each epoch, peak memory
in bytes.
"""

import argparse
import json
import time
from pathlib import Path

import keras
import numpy as np

from finetune.backend import peak_bytes

APPLICATIONS = {
    "vgg16": (keras.applications.VGG16, keras.applications.vgg16, "block5_conv1"),
    "resnet50": (keras.applications.ResNet50, keras.applications.resnet50, "conv5_block1_1_conv"),
    "densenet121": (
        keras.applications.DenseNet121,
        keras.applications.densenet,
        "conv5_block1_0_bn",
    ),
}
BATCH = 32


class Clock(keras.callbacks.Callback):
    """Seconds of each epoch, validation included."""

    def on_train_begin(self, logs=None):
        self.seconds, self.last = [], time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.last = now


def photos(folder: Path, size: int, shuffle: bool):
    """Batches of one split, as everybody loads them."""
    return keras.utils.image_dataset_from_directory(
        folder, image_size=(size, size), batch_size=BATCH, shuffle=shuffle, verbose=False
    )


def base_of(backbone: str, size: int) -> keras.Model:
    """Random weights: they take as long as trained ones."""
    return APPLICATIONS[backbone][0](include_top=False, weights=None, input_shape=(size, size, 3))


def extraction(data: Path, backbone: str, size: int, epochs: int) -> list[float]:
    """Features of all splits to disk."""
    base, preprocess = base_of(backbone, size), APPLICATIONS[backbone][1].preprocess_input
    for split in ("train", "validation", "test"):
        batches = photos(data / split, size, shuffle=False).map(lambda x, y: preprocess(x))
        np.save(data / f"{split}.npy", base.predict(batches, verbose=0))
    return []


def top_block(data: Path, backbone: str, size: int, epochs: int) -> list[float]:
    """The last block and a head learn; every epoch runs the whole network."""
    base, (_, module, first) = base_of(backbone, size), APPLICATIONS[backbone]
    learns = False
    for layer in base.layers:
        learns = learns or layer.name == first
        layer.trainable = learns and not isinstance(layer, keras.layers.BatchNormalization)
    return _fit(data, base, module.preprocess_input, [], size, epochs, 1e-5)


def frozen_augmented(data: Path, backbone: str, size: int, epochs: int) -> list[float]:
    """A frozen base below a head, with fresh views in every epoch."""
    base = base_of(backbone, size)
    base.trainable = False
    views = [keras.layers.RandomFlip("horizontal"), keras.layers.RandomRotation(10 / 360),
             keras.layers.RandomZoom(0.1),
             keras.layers.RandomTranslation(0.05, 0.05)]  # fmt: skip
    return _fit(data, base, APPLICATIONS[backbone][1].preprocess_input, views, size, epochs, 1e-3)


def cached_head(data: Path, backbone: str, size: int, epochs: int) -> list[float]:
    """One of many scripts: features anew, a head on them, test accuracy."""
    base, preprocess = base_of(backbone, size), APPLICATIONS[backbone][1].preprocess_input
    features, labels = {}, {}
    for split in ("train", "validation", "test"):
        batches = photos(data / split, size, shuffle=False)
        features[split] = base.predict(batches.map(lambda x, y: preprocess(x)), verbose=0)
        labels[split] = np.concatenate([y for _, y in batches])
    head = keras.Sequential(
        [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1, activation="sigmoid")]
    )
    head.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    held_out = (features["validation"], labels["validation"])
    head.fit(features["train"], labels["train"], BATCH, epochs, validation_data=held_out, verbose=0)
    head.evaluate(features["test"], labels["test"], verbose=0)
    return []


def _fit(data: Path, base, preprocess, views, size: int, epochs: int, rate: float) -> list[float]:
    x = photo = keras.Input((size, size, 3))
    for layer in views:
        x = layer(x)
    x = base(preprocess(x), training=False)
    x = keras.layers.Dense(1, activation="sigmoid")(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(photo, x)
    model.compile(keras.optimizers.Adam(rate), "binary_crossentropy", metrics=["accuracy"])
    clock = Clock()
    train, held_out = photos(data / "train", size, True), photos(data / "validation", size, False)
    model.fit(train, validation_data=held_out, epochs=epochs, callbacks=[clock], verbose=0)
    return clock.seconds


JOBS = {job.__name__: job for job in (extraction, top_block, frozen_augmented, cached_head)}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", choices=APPLICATIONS, default="vgg16")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=1)
    given = parser.parse_args()
    start = time.perf_counter()
    epochs = JOBS[given.job](given.data, given.backbone, given.size, given.epochs)
    print(
        json.dumps(
            {"seconds": time.perf_counter() - start, "epochs": epochs, "peak_bytes": peak_bytes()}
        )
    )
