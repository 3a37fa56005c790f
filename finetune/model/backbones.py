"""The backbones: one literal table, and the base network that each row builds.

The table can be read without importing TensorFlow; ``build_base`` is the only function here that needs it.
"""

from dataclasses import dataclass, field

INPUT = "photo"  # the name of the input layer, and of the cut below everything


@dataclass(frozen=True)
class Preprocessing:
    """What ``keras.applications.*.preprocess_input`` computes, per pixel: ``(rgb[order] / scale - mean) / std``."""

    order: tuple[int, int, int]
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


# Means of ImageNet as keras/src/applications/imagenet_utils.py has them; "caffe" swaps to BGR.
CAFFE = Preprocessing(
    order=(2, 1, 0), scale=1.0, mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0)
)
TORCH = Preprocessing(
    order=(0, 1, 2), scale=255.0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)


@dataclass(frozen=True)
class Backbone:
    """One row of the table.

    ``blocks`` names the layer whose output closes each block, from the photo upwards; a cut below the top N blocks is
    ``blocks[-N - 1]``. ``weights_md5`` is the digest that Keras itself pins for its file; ``layer_digests`` pins the
    weights themselves (see ``weights.layer_digest``), where we have had the real file to compute them from.
    """

    builder: str
    preprocessing: Preprocessing
    blocks: tuple[str, ...]
    parameters: int
    min_size: int
    weights_url: str
    weights_md5: str
    licence: str
    citation: str
    layer_digests: dict[str, str] = field(default_factory=dict)

    @property
    def weights_file(self) -> str:
        """Keras's own name of the weight file."""
        return self.weights_url.rsplit("/", 1)[1]


_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/"

BACKBONES = {
    "vgg16": Backbone(
        builder="VGG16",
        preprocessing=CAFFE,
        blocks=("block1_pool", "block2_pool", "block3_pool", "block4_pool", "block5_pool"),
        parameters=14_714_688,
        min_size=32,
        weights_url=_KERAS + "vgg16/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        weights_md5="6d6bbae143d832006294945121d1f1fc",
        licence="CC BY 4.0 (weights, Visual Geometry Group, Oxford); Apache 2.0 (Keras port)",
        citation="Simonyan & Zisserman, Very Deep Convolutional Networks, ICLR 2015, arXiv:1409.1556",
        layer_digests={
            "block1_conv1": "f9366dfa45849cd2e37f2c0ce051a0c903182ed4a0f5394d087a467268992416",
            "block1_conv2": "7dfb05450057a1dee9bd980a680a692a2eb3f1551ae06f22d8e45b7fab0fbb58",
            "block2_conv1": "ec6867228dd8460bfc54708dab3769f6a18d6c4aeb7ca50a524c58f11eb3110a",
            "block2_conv2": "0c87a133a5a1206e3a3d35abc9ab512d96a67b5a77cdc7c04ef8a4b865d5d639",
            "block3_conv1": "520e87c5f5c1d5de14b905389969d535af1fb37653d70cb99056d2dc342bbd35",
            "block3_conv2": "e4c090f54b31ae5c1fea163534c86e3038de1bd5f71b76a471821a2370e7084d",
            "block3_conv3": "0badcc37872d8d7a98735a0a8ca2bfc1c5ce62adcdcd3f5d072f0fee4eaec92d",
            "block4_conv1": "1da1cc0b651094feafc15ad1a17b0e67245965ac3051b5b574c037cf1ced0c1f",
            "block4_conv2": "74fe1f21452e0d2ae3f55dcfbc75ec76d617d7eaddb7c5e72ccf9375103b58af",
            "block4_conv3": "e160c4faf34730344143bb054613564d762acc31f83ba5a141de32eac383485f",
            "block5_conv1": "62eb1f9caaf5c67a8eb44aa3188670e6f5009c135afd51a7c9e0e95a9f52e8e2",
            "block5_conv2": "9dcd7b4b38f2d872d02ac74c65139c2b1a057831e21442c1c6665b2b88af76bc",
            "block5_conv3": "eab6384494f533b021ec20e95621948c7b36a73ea3f3b3289e1e04c19be7aa42",
        },
    ),
    "resnet50": Backbone(
        builder="ResNet50",
        preprocessing=CAFFE,
        blocks=(
            "pool1_pool",
            "conv2_block3_out",
            "conv3_block4_out",
            "conv4_block6_out",
            "conv5_block3_out",
        ),
        parameters=23_587_712,
        min_size=32,
        weights_url=_KERAS + "resnet/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        weights_md5="4d473c1dd8becc155b73f8504c6f6626",
        licence="MIT (weights, Kaiming He); Apache 2.0 (Keras port)",
        citation="He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385",
    ),
    "densenet121": Backbone(
        builder="DenseNet121",
        preprocessing=TORCH,
        # The final "bn" and "relu" stand after conv5 and belong to the top block: its boundary is "relu".
        blocks=("pool1", "pool2_pool", "pool3_pool", "pool4_pool", "relu"),
        parameters=7_037_504,
        min_size=32,
        weights_url=_KERAS + "densenet/densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5",
        weights_md5="30ee3e1110167f948a6b9946edeeb738",
        licence="BSD 3-Clause (weights, Facebook AI Research); Apache 2.0 (Keras port)",
        citation="Huang et al., Densely Connected Convolutional Networks, CVPR 2017, arXiv:1608.06993",
    ),
}


def build_base(name: str, image_size: int):
    """Build a backbone that takes raw photos, its preprocessing inside, without loading weights.

    All three preprocessings are affine per pixel, so one frozen 1x1 convolution expresses any of them, the swap to BGR
    included. It stands before the network and not inside its first convolution, whose zero padding must pad
    preprocessed pixels.

    Args:
        name: a key of ``BACKBONES``.
        image_size: side of the square photos in pixels.

    Returns:
        A flat functional ``keras.Model``: uint8 (n, image_size, image_size, 3) RGB -> float32 (n, h, w, channels).
    """
    import keras
    import numpy as np

    backbone = BACKBONES[name]
    photo = keras.Input((image_size, image_size, 3), dtype="uint8", name=INPUT)
    # float32 under any dtype policy: float16 cannot hold 255 - mean to the last digit.
    floats = keras.layers.Rescaling(1.0, dtype="float32", name="as_float")(photo)
    affine = keras.layers.Conv2D(3, 1, trainable=False, dtype="float32", name="preprocess")
    preprocessed = affine(floats)
    base = getattr(keras.applications, backbone.builder)(
        include_top=False, weights=None, input_tensor=preprocessed
    )
    recipe = backbone.preprocessing
    kernel = np.zeros((1, 1, 3, 3))
    kernel[0, 0, recipe.order, (0, 1, 2)] = 1 / (recipe.scale * np.array(recipe.std))
    affine.set_weights([kernel, -np.array(recipe.mean) / recipe.std])
    return keras.Model(photo, base.output, name=name)
