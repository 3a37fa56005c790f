"""Weights in torchvision's layout: the same outputs as torchvision's graph, run by ONNX Runtime."""

import numpy as np
import pytest

from finetune.errors import IntegrityError
from finetune.model.base import build_base
from finetune.model.foreign_weights import read_foreign
from finetune.model.preprocessing import PREPROCESSING
from finetune.model.weights import load_weights

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
SIZE = 64


class Torch:
    """Writes a graph as torch.onnx does: explicit padding, OIHW kernels, names of the state dict;
    random weights.
    """

    def __init__(self):
        self.rng = np.random.default_rng(0)
        self.tensors: dict[str, np.ndarray] = {}
        self.nodes: list[onnx.NodeProto] = []

    def node(self, kind: str, inputs: list[str], **attributes) -> str:
        out = f"t{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(kind, inputs, [out], **attributes))
        return out

    def conv(self, x, name, i, o, k, stride=1, bias=False):
        kernel = self.rng.normal(0, (2 / (i * k * k)) ** 0.5, (o, i, k, k))
        self.tensors[f"{name}.weight"] = kernel.astype(np.float32)
        inputs = [x, f"{name}.weight"]
        if bias:
            self.tensors[f"{name}.bias"] = self.rng.normal(0, 0.1, o).astype(np.float32)
            inputs.append(f"{name}.bias")
        return self.node(
            "Conv", inputs, kernel_shape=[k, k], strides=[stride] * 2, pads=[k // 2] * 4
        )

    def norm(self, x, name, c, relu=True):
        draws = {
            "weight": (0.5, 1),
            "bias": (-0.1, 0.1),
            "running_mean": (-0.1, 0.1),
            "running_var": (0.8, 1.2),
        }
        for part, (low, high) in draws.items():
            self.tensors[f"{name}.{part}"] = self.rng.uniform(low, high, c).astype(np.float32)
        x = self.node("BatchNormalization", [x, *(f"{name}.{p}" for p in draws)], epsilon=1e-5)
        return self.node("Relu", [x]) if relu else x

    def pool(self, x, kind, k, stride, pad=0):
        return self.node(kind, [x], kernel_shape=[k, k], strides=[stride] * 2, pads=[pad] * 4)

    def save(self, path, out):
        from onnx import TensorProto, helper, numpy_helper

        graph = helper.make_graph(
            self.nodes,
            "torch",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3, SIZE, SIZE])],
            [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)],
            [numpy_helper.from_array(value, name) for name, value in self.tensors.items()],
        )
        opset = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)


def vgg16(net: Torch) -> str:
    x, channels, number = "x", 3, 0
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            x = net.conv(x, f"features.{number}", channels, width, 3, bias=True)
            x = net.node("Relu", [x])
            channels, number = width, number + 2
        x, number = net.pool(x, "MaxPool", 2, 2), number + 1
    return x


def resnet50(net: Torch) -> str:
    x = net.norm(net.conv("x", "conv1", 3, 64, 7, 2), "bn1", 64)
    x, channels = net.pool(x, "MaxPool", 3, 2, 1), 64
    for stage, (width, count) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 1):
        for unit in range(count):
            name = f"layer{stage}.{unit}"
            stride = 2 if stage > 1 and unit == 0 else 1
            y = net.norm(net.conv(x, f"{name}.conv1", channels, width, 1), f"{name}.bn1", width)
            y = net.norm(
                net.conv(y, f"{name}.conv2", width, width, 3, stride), f"{name}.bn2", width
            )
            y = net.norm(
                net.conv(y, f"{name}.conv3", width, 4 * width, 1), f"{name}.bn3", 4 * width, False
            )
            if unit == 0:
                x = net.conv(x, f"{name}.downsample.0", channels, 4 * width, 1, stride)
                x = net.norm(x, f"{name}.downsample.1", 4 * width, False)
            x, channels = net.node("Relu", [net.node("Add", [x, y])]), 4 * width
    return x


def densenet121(net: Torch) -> str:
    x = net.norm(net.conv("x", "features.conv0", 3, 64, 7, 2), "features.norm0", 64)
    x, channels = net.pool(x, "MaxPool", 3, 2, 1), 64
    for block, count in enumerate((6, 12, 24, 16), 1):
        for unit in range(1, count + 1):
            name = f"features.denseblock{block}.denselayer{unit}"
            y = net.conv(net.norm(x, f"{name}.norm1", channels), f"{name}.conv1", channels, 128, 1)
            y = net.conv(net.norm(y, f"{name}.norm2", 128), f"{name}.conv2", 128, 32, 3)
            x, channels = net.node("Concat", [x, y], axis=1), channels + 32
        if block < 4:
            name = f"features.transition{block}"
            x = net.conv(
                net.norm(x, f"{name}.norm", channels), f"{name}.conv", channels, channels // 2, 1
            )
            x, channels = net.pool(x, "AveragePool", 2, 2), channels // 2
    return net.norm(x, "features.norm5", channels)


@pytest.mark.parametrize(
    ("name", "graph"),
    [
        ("vgg16", vgg16),
        ("resnet50-v1.5", resnet50),
        pytest.param("densenet121", densenet121, marks=pytest.mark.slow),
    ],
)
def test_outputs_equal_torchvisions_graph(name, graph, tmp_path):
    import onnxruntime
    from safetensors.numpy import save_file

    net = Torch()
    net.save(tmp_path / "w.onnx", graph(net))
    pixels = np.random.default_rng(1).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    torch = PREPROCESSING["torch"]
    normalized = ((pixels / 255 - torch.mean) / torch.std).astype(np.float32).transpose(0, 3, 1, 2)
    session = onnxruntime.InferenceSession(tmp_path / "w.onnx", providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": normalized})[0].transpose(0, 2, 3, 1)

    extra = {
        "classifier.weight": np.zeros((10, 5), np.float32),
        "bn1.num_batches_tracked": np.array(1),
    }
    save_file({**net.tensors, **extra}, tmp_path / "w.safetensors")
    digests = set()
    for file in ("w.onnx", "w.safetensors"):
        base = build_base(name, SIZE)
        digests.add(load_weights(base, name, str(tmp_path / file)).digest)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(base(pixels), expected, atol=2e-4 * scale, err_msg=file)
    assert len(digests) == 1


def test_other_networks_and_damaged_files_are_refused(tmp_path):
    from safetensors.numpy import save_file

    base = build_base("vgg16", 32)
    (tmp_path / "a.safetensors").write_bytes(b"\xff" * 100)
    save_file(
        {"layer1.0.conv1.weight": np.zeros((4, 4, 1, 1), np.float32)}, tmp_path / "b.safetensors"
    )
    save_file({"features.0.weight": np.zeros((4, 4, 3, 3), np.float32)}, tmp_path / "c.safetensors")
    (tmp_path / "d.onnx").write_bytes(b"no graph")
    for file in sorted(tmp_path.iterdir()):
        with pytest.raises(IntegrityError, match="Nothing was loaded"):
            read_foreign(file, base, "VGG16")
    with pytest.raises(IntegrityError, match="read for vgg16, densenet121 and resnet50-v1.5"):
        read_foreign(tmp_path / "c.safetensors", base, "MobileNet")


def test_data_outside_an_onnx_file_are_refused(tmp_path):
    value = np.zeros((64, 3, 3, 3), np.float32)
    tensor = onnx.numpy_helper.from_array(value, "features.0.weight")
    onnx.external_data_helper.set_external_data(tensor, "/etc/passwd")
    tensor.ClearField("raw_data")
    graph = onnx.helper.make_graph([], "g", [], [], [tensor])
    (tmp_path / "w.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    with pytest.raises(IntegrityError, match="lies in another file"):
        read_foreign(tmp_path / "w.onnx", build_base("vgg16", 32), "VGG16")
