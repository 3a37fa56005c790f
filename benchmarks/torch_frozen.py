"""The same frozen trunk in torch, as fastai and timm users run it: photos on disk to features on
disk.

python -m benchmarks.torch_frozen DATA [--backbone vgg16] [--size 224] [--precision
float32|bfloat16]

Needs the extra `bench`. Weights are random; prints what `plain` prints.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torchvision

from finetune.backend import peak_bytes

BATCH = 32
# What of each network lies below its classifier: its feature maps.
TRUNKS = {
    "vgg16": lambda: torchvision.models.vgg16(weights=None).features,
    "resnet50": lambda: torch.nn.Sequential(
        *list(torchvision.models.resnet50(weights=None).children())[:-2]
    ),
    "densenet121": lambda: torchvision.models.densenet121(weights=None).features,
}


def extraction(data: Path, backbone: str, size: int, precision: str) -> None:
    """Features of all splits to disk."""
    steps = [torchvision.transforms.Resize((size, size)), torchvision.transforms.ToTensor()]
    transform = torchvision.transforms.Compose(steps)
    trunk = TRUNKS[backbone]().eval().to(memory_format=torch.channels_last)
    cast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")
    for split in ("train", "validation", "test"):
        folder = torchvision.datasets.ImageFolder(data / split, transform)
        loader = torch.utils.data.DataLoader(folder, BATCH, num_workers=1)
        with torch.inference_mode(), cast:
            rows = [
                trunk(photos.to(memory_format=torch.channels_last)).float().numpy()
                for photos, _ in loader
            ]
        np.save(data / f"{split}.npy", np.concatenate(rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", choices=TRUNKS, default="vgg16")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    given = parser.parse_args()
    start = time.perf_counter()
    extraction(given.data, given.backbone, given.size, given.precision)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "epochs": [], "peak_bytes": peak_bytes()}))
