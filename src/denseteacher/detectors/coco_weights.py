"""torchvision's detectors trained on COCO: which there are, and fetching them."""

import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import torch

from denseteacher.detectors.pyramid import PyramidConfig
from denseteacher.errors import InputError

_PATIENCE = 10.0  # s for the server's first answer; where packets are dropped, a connection is tried for minutes


def has_coco_weights(config: PyramidConfig) -> bool:
    """Whether torchvision has a COCO detector for this one: FCOS and RetinaNet on ResNet-50; GFL takes most of FCOS."""
    return config.name in ("fcos", "gfl", "retinanet") and config.backbone.partition(".")[0] == "resnet50"


def coco_weights(config: PyramidConfig) -> Any:
    """The member of torchvision's weights enums for an architecture.

    RetinaNet's second version has normalized towers and makes level 6 from the backbone; it is taken where the config
    has either of them.

    Raises:
        InputError: If there is none.
    """
    from torchvision.models import detection

    if not has_coco_weights(config):
        raise InputError(
            "torchvision has COCO detectors on the backbone resnet50 (FCOS and RetinaNet), "
            f"not {config.name} on {config.backbone!r}"
        )
    if config.name in ("fcos", "gfl"):
        return detection.FCOS_ResNet50_FPN_Weights.COCO_V1
    if config.head_norm == "group" or config.extra_from == "backbone":
        return detection.RetinaNet_ResNet50_FPN_V2_Weights.COCO_V1
    return detection.RetinaNet_ResNet50_FPN_Weights.COCO_V1


def coco_categories() -> tuple[str, ...]:
    """Class names of torchvision's COCO detectors by class index; empty where a class is not used."""
    from torchvision.models.detection import FCOS_ResNet50_FPN_Weights

    names: list[str] = FCOS_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return tuple("" if name in ("__background__", "N/A") else name for name in names)


def trained_without_epsilon(file: Path) -> bool:
    """Whether the batch norms of a file's network add nothing to variances, as torchvision has it for one file alone.

    It sets their epsilon to 0 where it loads RetinaNet's first version, which is older than its epsilon.
    """
    from torchvision.models.detection import RetinaNet_ResNet50_FPN_Weights

    return file.name == _file(RetinaNet_ResNet50_FPN_Weights.COCO_V1).name


def fetch(weights: Any) -> tuple[Path, dict[str, Any]]:
    """The file of torchvision's weights, downloaded with its hash checked if it is not there yet, and its content.

    Raises:
        InputError: If it can't be had, which is known after seconds.
    """
    file = _file(weights)
    present = file.is_file()
    reason = None if present else _unreachable(weights.url)
    if reason is None:
        try:
            content = weights.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
        except Exception as error:  # of the network, the disk, the hash or the unpickler
            if present:
                raise InputError(f"{file} is damaged: remove it, and it is fetched again") from error
            reason = _first_line(error)
        else:
            return file, content
    raise InputError(
        f"{file.name}, torchvision's detector, can't be fetched ({reason}): put {weights.url} into {file.parent}, or "
        "name the file with --set detector.init=FILE"
    )


def _file(weights: Any) -> Path:
    """Where torchvision keeps the weights once they are fetched."""
    return Path(torch.hub.get_dir()) / "checkpoints" / str(weights.url).rpartition("/")[2]


def _unreachable(url: str) -> str | None:
    """Why there is no answer from a server; None if there is one, whatever it is."""
    found: list[str | None] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_PATIENCE):
                found.append(None)
        except urllib.error.HTTPError:
            found.append(None)
        except Exception as error:
            found.append(_first_line(error))

    asking = threading.Thread(target=ask, daemon=True)  # looking up a name knows no time limit
    asking.start()
    asking.join(_PATIENCE)
    return found[0] if found else f"no answer within {_PATIENCE:g} s"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
