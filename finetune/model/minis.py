"""Networks that keras.applications lacks: small ones to train from scratch, as controls, and
ResNets.

Each function maps preprocessed pixels (n, side, side, 3), side at least 28, to maps (n, h, w,
channels). Layers are named by stage and unit, as the cuts are.
"""

import keras
from keras import layers

# Of BatchNorm's statistics. Keras's 0.99 takes 300 steps to forget where they began, ten epochs of
# a thousand photos, and validation is wrong until then.
_MOMENTUM = 0.9


def _conv(x, filters: int, size: int, name: str, strides: int = 1, bias: bool = False):
    return layers.Conv2D(
        filters, size, strides=strides, padding="same", use_bias=bias, name=f"{name}_conv"
    )(x)


def _norm(x, name: str):
    return layers.BatchNormalization(momentum=_MOMENTUM, name=f"{name}_bn")(x)


def _norm_relu(x, name: str):
    return layers.ReLU(name=f"{name}_relu")(_norm(x, name))


def mini_resnet(x: keras.KerasTensor) -> keras.KerasTensor:
    """Three stages of two pre-activation units (He et al. 2016b), 16, 32 and 64 maps wide."""
    x = _conv(x, 16, 3, "stem")
    for stage, filters in enumerate((16, 32, 64), 1):
        for unit in (1, 2):
            name = f"stage{stage}_unit{unit}"
            strides = 2 if stage > 1 and unit == 1 else 1
            active = _norm_relu(x, f"{name}_1")
            widens = x.shape[-1] != filters
            shortcut = _conv(active, filters, 1, f"{name}_0", strides) if widens else x
            y = _conv(active, filters, 3, f"{name}_1", strides)
            y = _conv(_norm_relu(y, f"{name}_2"), filters, 3, f"{name}_2")
            x = layers.Add(name=f"stage{stage}_out" if unit == 2 else f"{name}_out")([shortcut, y])
    return _norm_relu(x, "top")


def mini_densenet(x: keras.KerasTensor, growth: int = 12) -> keras.KerasTensor:
    """Three stages of four units that each add ``growth`` maps; transitions halve maps and
    sides.
    """
    x = _conv(x, 2 * growth, 3, "stem")
    for stage in (1, 2, 3):
        for unit in (1, 2, 3, 4):
            name = f"stage{stage}_unit{unit}"
            y = _conv(_norm_relu(x, name), growth, 3, name)
            x = layers.Concatenate(name=f"{name}_out")([x, y])
        if stage < 3:
            x = _conv(_norm_relu(x, f"stage{stage}"), x.shape[-1] // 2, 1, f"stage{stage}")
            x = layers.AveragePooling2D(2, name=f"stage{stage}_pool")(x)
    return _norm_relu(x, "top")


def mini_cnn(x: keras.KerasTensor) -> keras.KerasTensor:
    """7x7x64, pool, two 3x3x128, pool, two 3x3x256, pool; ReLU throughout, no BatchNorm."""
    for stage, (size, filters, units) in enumerate(((7, 64, 1), (3, 128, 2), (3, 256, 2)), 1):
        for unit in range(1, units + 1):
            name = f"stage{stage}_unit{unit}"
            x = _conv(x, filters, size, name, bias=True)
            x = layers.ReLU(name=f"{name}_relu")(x)
        x = layers.MaxPooling2D(2, name=f"stage{stage}_pool")(x)
    return x


def resnet34(x: keras.KerasTensor) -> keras.KerasTensor:
    """Basic residual units, 3-4-6-3 (He et al. 2016a), with strided 1x1 shortcuts."""
    x = _norm_relu(_conv(x, 64, 7, "stem", strides=2), "stem")
    x = layers.MaxPooling2D(3, strides=2, padding="same", name="stem_pool")(x)
    for stage, (filters, units) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 1):
        for unit in range(1, units + 1):
            name = f"stage{stage}_unit{unit}"
            strides = 2 if stage > 1 and unit == 1 else 1
            shortcut = x
            if x.shape[-1] != filters:
                shortcut = _conv(x, filters, 1, f"{name}_0", strides)
                shortcut = _norm(shortcut, f"{name}_0")
            y = _norm_relu(_conv(x, filters, 3, f"{name}_1", strides), f"{name}_1")
            y = _norm(_conv(y, filters, 3, f"{name}_2"), f"{name}_2")
            x = layers.Add(name=f"{name}_add")([shortcut, y])
            out = f"stage{stage}_out" if unit == units else f"{name}_out"
            x = layers.ReLU(name=out)(x)
    return x


def resnet50_v15(x: keras.KerasTensor) -> keras.KerasTensor:
    """Bottleneck units, 3-4-6-3, as torchvision has them: stride in the 3x3 convolution, padding on
    both sides, no biases.

    Layers are named as in Keras's ResNet50.
    """

    def conv(x, filters: int, size: int, name: str, strides: int = 1):
        if size > 1:
            x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
        x = layers.Conv2D(filters, size, strides=strides, use_bias=False, name=f"{name}_conv")(x)
        return layers.BatchNormalization(epsilon=1e-5, name=f"{name}_bn")(x)

    x = layers.ReLU(name="conv1_relu")(conv(x, 64, 7, "conv1", strides=2))
    x = layers.ZeroPadding2D(1, name="pool1_pad")(x)
    x = layers.MaxPooling2D(3, strides=2, name="pool1_pool")(x)
    for stage, (filters, units) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 2):
        for unit in range(1, units + 1):
            name = f"conv{stage}_block{unit}"
            strides = 2 if stage > 2 and unit == 1 else 1
            shortcut = conv(x, 4 * filters, 1, f"{name}_0", strides) if unit == 1 else x
            y = layers.ReLU(name=f"{name}_1_relu")(conv(x, filters, 1, f"{name}_1"))
            y = layers.ReLU(name=f"{name}_2_relu")(conv(y, filters, 3, f"{name}_2", strides))
            y = layers.Add(name=f"{name}_add")([shortcut, conv(y, 4 * filters, 1, f"{name}_3")])
            x = layers.ReLU(name=f"{name}_out")(y)
    return x
