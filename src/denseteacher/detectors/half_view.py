"""Half-size views (PseCo: Li et al., ECCV 2022, multi-scale label consistency).

At half size, the pyramid's levels of half the stride have the locations of the full-size image's levels: location i of
a level with stride s lies at pixel i * s of the image, and at pixel i * s / 2 of its half. So what a detector says
there means, in strides or relative to anchors, what it says of the image one level up, and has the same targets.
"""

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from denseteacher.structures import ImageBatch


def half_size(images: ImageBatch) -> ImageBatch:
    """Every other pixel of every other row, the nearest one, as published.

    Pixel i of the half is pixel 2 i of the image. An odd side is rounded up, as the sides of feature maps are.
    """
    return ImageBatch(images.pixels[..., ::2, ::2], (images.sizes + 1).div(2, rounding_mode="floor"))


class StatisticsKept:
    """A context in which the running statistics of batch normalization stay as they are.

    They are those of full-size images, which the detector is used on; and a forward that is repeated must not count
    again.
    """

    def __init__(self, detector: nn.Module) -> None:
        modules = [one for one in detector.modules() if isinstance(one, _BatchNorm) and one.training]
        self._buffers = [buffer for module in modules for buffer in module.buffers(recurse=False)]
        self._before: list[Tensor] = []

    def __enter__(self) -> None:
        self._before = [buffer.clone() for buffer in self._buffers]

    def __exit__(self, *_: object) -> None:
        for buffer, old in zip(self._buffers, self._before, strict=True):
            buffer.data.copy_(old)  # not seen by autograd, which has saved the buffer for parts still to come
