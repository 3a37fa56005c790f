"""What happens to pixels before a backbone: a literal table of affine maps, each one a 1x1
convolution.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Preprocessing:
    """What ``keras.applications.*.preprocess_input`` computes: ``(rgb[order] / scale - mean) /
    std``, per pixel.
    """

    order: tuple[int, int, int] = (0, 1, 2)
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def affine(self) -> tuple[np.ndarray, np.ndarray]:
        """The same as a 1x1 convolution: kernel (1, 1, 3, 3) and bias (3,)."""
        kernel = np.zeros((1, 1, 3, 3))
        kernel[0, 0, self.order, (0, 1, 2)] = 1 / (self.scale * np.array(self.std))
        return kernel, -np.array(self.mean) / self.std


# As keras/src/applications/imagenet_utils.py has them; "caffe" swaps to BGR.
PREPROCESSING = {
    "caffe": Preprocessing(order=(2, 1, 0), mean=(103.939, 116.779, 123.68)),
    "torch": Preprocessing(scale=255.0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "tf": Preprocessing(scale=127.5, mean=(1.0, 1.0, 1.0)),
    # The network takes raw pixels: its preprocessing is among its own layers
    "none": Preprocessing(),
    "scale-only": Preprocessing(scale=255.0),
}
