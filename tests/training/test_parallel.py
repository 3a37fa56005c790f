"""Several devices: the same training, and the same rows, as on one.

TensorFlow makes logical devices of one processor, before its first operation only: each test is a
process of its own.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from finetune.training.batches import Batches, read_views

BEGIN = """
import json, sys
import keras, numpy as np, tensorflow as tf
devices, *given = json.loads(sys.argv[1])
cpu = tf.config.list_physical_devices("CPU")[0]
parts = [tf.config.LogicalDeviceConfiguration()] * devices
tf.config.set_logical_device_configuration(cpu, parts)
"""

TRAIN = """
from finetune.training.batches import Batches, read_views
from finetune.training.fit import Settings, fit

def model():
    keras.utils.set_random_seed(1)
    photos = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(8, 3, activation="relu")(photos)
    features = keras.layers.GlobalAveragePooling2D()(maps)
    return keras.Model(photos, keras.layers.Dense(2, activation="softmax")(features))

def trained(on, photos, size):
    draws = np.random.default_rng(0)
    x, y = draws.normal(size=(photos, 8, 8, 3)).astype(np.float32), draws.integers(0, 2, photos)
    weights = draws.uniform(0.5, 2, photos).astype(np.float32)
    names = [device.name for device in tf.config.list_logical_devices()][:on]
    scope = tf.distribute.MirroredStrategy(names) if on > 1 else tf.distribute.get_strategy()
    with scope.scope():
        net = model()
    train = Batches(read_views([x]), y, size, 0, weights, devices=on)
    held_out = Batches(read_views([x[:7]]), y[:7], size, devices=on)
    history = fit(net, train, held_out, Settings(2, 9, size, 1e-2), "tail")
    return history, np.concatenate([each.ravel() for each in net.get_weights()])

photos, size = given
(one, before), (history, after) = trained(1, photos, size), trained(devices, photos, size)
pairs = [*zip(one, history, strict=True)]
found = {name: max(abs(a[name] - b[name]) for a, b in pairs)
         for name in ("val_loss", "val_accuracy")}
for name in ("loss", "accuracy"):
    found[name] = max(abs(a[name] - b[name]) for a, b in pairs[1:])
found["weights"] = float(abs(before - after).max())
found["learned"] = one[0]["val_loss"] - one[-1]["val_loss"]
print(json.dumps(found))
"""

STREAM = """
from threading import current_thread
from finetune.activations.engine import compile_trunk
photos = keras.Input((16, 16, 3))
trunk = keras.Model(photos, keras.layers.Conv2D(4, 3, name="conv")(photos))
x = np.random.default_rng(0).normal(size=(61, 16, 16, 3)).astype(np.float32)
used = set()
real = keras.Model.predict_on_batch
def predict_on_batch(self, piece):
    used.add(self.get_layer("conv").kernel.value.device)
    return real(self, piece)
keras.Model.predict_on_batch = predict_on_batch
rows = np.concatenate(list(compile_trunk(trunk, "tensorflow")([x[:40], x[40:]])))
gap = float(abs(rows - real(trunk, x)).max())
print(json.dumps({"gap": gap, "devices": len(used), "rows": len(rows)}))
"""

RUN = """
from finetune.commands.run import run
from finetune.training.parallel import strategy
recipe = {"weights": "random", "image_size": 32, "strategy": "top-blocks", "epochs": 2,
          "batch_size": 8, "class_weight": "balanced", "learning_rate": 1e-3,
          "precision": "float32", **given[2]}
result = run(recipe, data=given[0], out=given[1])
print(json.dumps({"test": result.test["loss"], "validation": result.validation["loss"],
                  "replicas": strategy().num_replicas_in_sync}))
"""


def alone(text: str, *given) -> list[dict]:
    """What a process of its own prints."""
    command = [sys.executable, "-c", BEGIN + text, json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def on_three() -> list[dict]:
    """A training whose batches cannot be divided evenly, and a stream: two tests, one process."""
    return alone(TRAIN + STREAM, 3, 29, 8)


def test_a_training_on_several_devices_is_that_on_one(on_three):
    """Losses, accuracies and weights within 1e-5, class weights among what is summed."""
    found = dict(on_three[0])
    assert abs(found.pop("learned")) > 1e-4
    assert max(found.values()) < 1e-5, found


def test_a_trunk_streams_to_all_devices_and_rows_come_back_in_order(on_three):
    assert on_three[1] == {"gap": pytest.approx(0, abs=1e-6), "devices": 3, "rows": 61}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "photos", "size"), [(3, 30, 6), (2, 28, 4), (2, 27, 8), (4, 25, 6)]
)
def test_a_training_is_the_same_on_any_number_of_devices(devices, photos, size):
    (found,) = alone(TRAIN, devices, photos, size)
    assert abs(found.pop("learned")) > 1e-4
    assert max(found.values()) < 1e-5, found


@pytest.mark.slow
def test_a_run_on_two_devices_finds_what_one_finds(photos, tmp_path):
    (one,) = alone(RUN, 1, str(photos), str(tmp_path / "one"), {})
    (two,) = alone(RUN, 2, str(photos), str(tmp_path / "two"), {})
    assert (one.pop("replicas"), two.pop("replicas")) == (1, 2)
    assert two == pytest.approx(one, abs=1e-5)
    (dropped,) = alone(RUN, 2, str(photos), str(tmp_path / "dropout"), {"head": {"dropout": 0.5}})
    assert np.isfinite(list(dropped.values())).all()


def test_batches_are_filled_up_with_rows_that_weigh_nothing():
    rows, labels = np.ones((7, 2), np.float32), np.arange(7)
    drawn = Batches(read_views([rows]), labels, 4, devices=3)
    (x, y, w), (_, last, v) = drawn[0], drawn[1]
    assert (len(x), len(last)) == (6, 3)
    assert y.tolist() == [0, 1, 2, 3, 0, 0]
    assert (w > 0).tolist() == [True] * 4 + [False] * 2
    assert not x[4:].any()
    assert (w[0], v[0]) == (1.5, 1)
    trained = Batches(read_views([rows]), labels, 4, 0, np.full(7, 2, np.float32), devices=3)
    assert trained[0][2].tolist() == [3, 3, 3, 3, 0, 0]
    assert trained[1][2].tolist() == [2, 2, 2]
