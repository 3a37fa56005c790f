"""The linear head: Keras computes what L-BFGS found, and validation chose the penalty."""

import keras
import numpy as np
import pytest
from scipy.special import softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from finetune.errors import UsageError
from finetune.model.heads import HEADS, pool_maps
from finetune.training.linear_head import check_size, fit_linear

DIGITS = load_digits()
X, Y = DIGITS.data.astype(np.float32), DIGITS.target.astype(np.int32)


@pytest.mark.parametrize("classes", [2, 10])
def test_the_folded_head_is_the_fitted_model_and_the_penalty_is_the_best_on_validation(classes):
    keep = classes > Y
    x, y = X[keep], Y[keep]
    if (
        classes == 2
    ):  # few pixels, so that the classes overlap and the best penalty lies inside the grid
        x = x * np.isin(np.arange(64), range(20, 24))
    half = len(x) // 2
    head = fit_linear(x[:half], y[:half], x[half:], y[half:])
    assert (head.kernel.shape, head.bias.shape, head.kernel.dtype) == (
        (64, classes),
        (classes,),
        np.float32,
    )
    found = log_loss(
        y[half:], softmax(x[half:] @ head.kernel + head.bias, axis=1).astype(np.float64)
    )
    assert found == pytest.approx(head.validation_loss, rel=1e-3)
    np.testing.assert_allclose(head.probabilities(x[:3]).sum(axis=1), 1, rtol=1e-6)
    assert (head.c, head.validation_loss) == min(head.path, key=lambda step: step[1])
    centre, scale = x[:half].mean(axis=0), x[:half].std()
    for factor in (0.1, 10):
        other = LogisticRegression(C=head.c * factor, max_iter=2000).fit(
            (x[:half] - centre) / scale, y[:half]
        )
        loss = log_loss(y[half:], other.predict_proba((x[half:] - centre) / scale))
        assert loss >= head.validation_loss - 1e-4


def test_class_weights_shift_the_decision():
    keep = Y < 2
    x, y = X[keep][:, 20:24], Y[keep]  # few pixels, so that the classes overlap
    shares = [
        softmax(x @ head.kernel + head.bias, axis=1)[:, 1].mean()
        for head in (fit_linear(x, y, x, y), fit_linear(x, y, x, y, {0: 1.0, 1: 10.0}))
    ]
    assert shares[1] > shares[0] + 0.05


def test_what_would_not_fit_into_memory_is_refused_before_it_is_computed():
    check_size(2000, 25088)
    with pytest.raises(UsageError, match=r"head.solver=keras"):
        check_size(20_000, 25088)
    with pytest.raises(UsageError, match=r"allowed. Set head.pool=gap."):
        check_size(20_000, 25088, learns_head_only=False)


@pytest.mark.parametrize("pool", HEADS)
def test_pooling_in_numpy_equals_the_layers(pool):
    maps = np.random.default_rng(0).normal(size=(3, 5, 4, 6)).astype(np.float16)
    expected = keras.ops.convert_to_numpy(HEADS[pool]()(maps.astype(np.float32)))
    np.testing.assert_allclose(pool_maps(maps, pool), expected, rtol=1e-5, atol=1e-6)
    assert pool_maps(maps, pool).dtype == np.float32


def test_weights_of_rows_count_in_the_loss():
    keep = np.isin(Y, (3, 8))
    x, y = X[keep] * np.isin(np.arange(64), range(20, 24)), (Y[keep] == 8).astype(np.int32)
    shares = []
    for heavy in (0, 1):
        weights = np.where(y == heavy, 1.9, 0.1).astype(np.float32)
        head = fit_linear(x[::2], y[::2], x[1::2], y[1::2], sample_weight=weights[::2])
        shares.append(head.probabilities(x)[:, 1].mean())
    assert shares[0] < shares[1] - 0.2
