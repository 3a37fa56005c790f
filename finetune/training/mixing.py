"""Labels that are no longer one class: smoothed ones, and those of mixed photos."""

from dataclasses import dataclass

import numpy as np


def one_hot(labels: np.ndarray, classes: int, smoothing: float = 0.0) -> np.ndarray:
    """Targets float32 (n, classes) of int labels (n,).

    ``smoothing`` is spread evenly over all classes (Szegedy et al., Rethinking the Inception
    Architecture, arXiv:1512.00567). Keras's loss has the same setting, but would smooth the labels
    of the validation photos, too, by whose loss the epoch is chosen.
    """
    exact = np.eye(classes, dtype=np.float32)[labels]
    return exact * np.float32(1 - smoothing) + np.float32(smoothing / classes)


@dataclass(frozen=True)
class Mix:
    """Mixes every photo of a batch with another one of it, activations and targets alike.

    At a cut above the photo ``mixup`` is manifold mixup (Verma et al., arXiv:1806.05236; mixup:
    Zhang et al., arXiv:1710.09412) and ``cutmix`` pastes a rectangle of maps, as PatchUp does
    (Faramarzi et al., arXiv:2006.07794; CutMix: Yun et al., arXiv:1905.04899). Keras has layers for
    both, for pixels, whose state could not be repeated.

    Attributes:
        mixup, cutmix: parameters of the beta distribution that the share is drawn from; 0 is off.
            With both, each batch takes one of them.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __call__(
        self, rows: np.ndarray, targets: np.ndarray, weights: np.ndarray, draw: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A mixed batch.

        Args:
            rows: (n, ...), maps (n, h, w, channels) for ``cutmix``.
            targets: float32 (n, classes).
            weights: of each photo in the loss, float32 (n,).
            draw: what everything is drawn from.

        Returns:
            Rows, in their dtype, targets and weights: their loss is the mean of both photos' losses
            in the shares of the mix.
        """
        order = draw.permutation(len(rows))
        pastes = self.cutmix > 0 and (not self.mixup or draw.random() < 0.5)
        parameter = self.cutmix if pastes else self.mixup
        share = draw.beta(parameter, parameter)
        if pastes:
            mixed, share = _pasted(rows, rows[order], share, draw)
        else:
            mixed = share * rows.astype(np.float32) + (1 - share) * rows[order].astype(np.float32)
            if rows.dtype == np.uint8:
                mixed = np.rint(mixed)
        own, other = share * weights, (1 - share) * weights[order]
        weight = np.maximum(own + other, np.finfo(np.float32).tiny)
        both = own[:, None] * targets + other[:, None] * targets[order]
        return (
            mixed.astype(rows.dtype),
            (both / weight[:, None]).astype(np.float32),
            weight.astype(np.float32),
        )


def _pasted(
    rows: np.ndarray, others: np.ndarray, share: float, draw: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Rows with a rectangle of others in them, and the share of their own that is left."""
    height, width = rows.shape[1:3]
    side = np.sqrt(1 - share)
    tall, wide = round(height * side), round(width * side)
    top = draw.integers(height - tall + 1)
    left = draw.integers(width - wide + 1)
    mixed = rows.copy()
    inside = np.s_[:, top : top + tall, left : left + wide]
    mixed[inside] = others[inside]
    return mixed, 1 - tall * wide / (height * width)
