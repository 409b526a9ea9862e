"""MixPL (Chen et al., "Mixed Pseudo Labels for Semi-Supervised Object Detection", 2023) on one-stage detectors."""

from functools import partial
from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from denseteacher.config import Share
from denseteacher.data.augment.layers import TILES, PatchRule, Places, blended, fitted, layer, tiled, tiled_places
from denseteacher.data.randomness import further_uniforms, to_device
from denseteacher.detectors.base import DenseDetector
from denseteacher.methods.base import boxes_per_image, state_or_initial
from denseteacher.methods.mean_teacher import StudentTask
from denseteacher.methods.pseudo_box import PseudoBoxTeacher, to_strong_view
from denseteacher.pseudo_labels.image_cache import cached, empty_cache, with_images
from denseteacher.structures import (
    Canvases,
    DenseOutput,
    ImageBatch,
    LabeledBatch,
    LossDict,
    MethodState,
    Targets,
    UnlabeledBatch,
    cat,
    chunk,
)


class Chance(NamedTuple):
    """What a step decides by chance; uniform numbers in [0, 1) and permutations, on the device."""

    partners: Tensor
    """(B,) int64 places in the cache of the images that are mixed with the strong views."""
    offsets: Tensor
    """(B, 4) where the two images lie: y and x of the strong view, then of the other one."""
    patches: Tensor
    """(2, B, n) those of ``draw_patches`` for the two."""
    tiles: Tensor
    """(4,) int64 places in the cache of the mosaic's images."""
    tile_sides: Tensor
    """(2,) height and width of a tile."""
    tile_patches: Tensor
    """(4, n) those of ``draw_patches``."""


class MixPL(PseudoBoxTeacher):
    """The student learns each strong view mixed half and half with an earlier one, and one mosaic of four earlier ones.

    Published (code, docs/sources.md, MixPL): a cache of the last 8 strong views with their pseudo-boxes; mixup with
    its oldest images, drawn without replacement, fitted to the canvas, mirrored, both at random places of an area that
    holds the two; a mosaic of its 4 newest ones around one point, mirrored too; patches erased in all of them; all
    boxes hard labels at full weight; the mosaic's losses times 0.5 under a normalizer of its own; a part without any
    pseudo-box has no loss; until the cache is full, strong views with erased patches alone; all of it with weight 2.
    Patches and gaps are 0 to the network, the mean color.

    Thresholds: 0.3 on FCOS, 0.4 on RetinaNet. The published code's score on FCOS is class score times centerness;
    here detections carry the root of that product, so its 0.3 is 0.55 here, the default.

    Adapted: the cache is one of all processes (published: one a GPU), and images in it are resized until they fit into
    a square of ``cache_side``. The mosaic lies on the canvas of the step, so that one forward does for all: a tile has
    between half and all of half the canvas, where the published one has 400 to 800 pixels, whatever the canvas.
    Resizing is bilinear (published: nearest), sizes are rounded (published: cut off), and the mosaic's middle is not
    rounded to 16 pixels. As everywhere here, boxes with a side below 2 pixels go, and there is a burn-in. The paper's
    class-balanced resampling of labeled images, which the published recipes lack, is not there.
    """

    name: Literal["mixpl"] = "mixpl"
    threshold: float = Field(0.55, ge=0, lt=1)
    cls_weight: float = Field(2.0, ge=0)
    box_weight: float = Field(2.0, ge=0)
    box: bool = True
    cache: int = Field(8, ge=TILES)
    """Strong views that are remembered."""
    cache_side: int = Field(800, gt=0)
    """Height and width of the squares in which they are, in pixels: at best the longer side of the views. Larger views
    come back blurred, and smaller ones take as much memory and time. 8 images of 800 pixels take 15 MB."""
    cache_boxes: int = Field(50, gt=0)
    """Pseudo-boxes remembered of an image, the best ones."""
    mosaic_weight: float = Field(0.5, ge=0)
    """Weight of the losses on the mosaic, beside 1 of those on mixed images."""
    mosaic_tile: tuple[Share, Share] = (0.5, 1.0)
    """Smallest and largest tile, as shares of half the canvas; its height and width are drawn one by one."""
    patches: int = Field(19, gt=0)
    """Most patches that are erased in an image; every number from 1 up to it is as likely."""
    patch_side: Share = 0.1
    """Largest height and width of a patch, as a share of the image's."""
    most_covered: float = Field(0.7, ge=0)
    """A box is no longer learned once patches cover this share of it."""

    @model_validator(mode="after")
    def _check_tile(self) -> Self:
        if not 0 < self.mosaic_tile[0] <= self.mosaic_tile[1]:
            raise ValueError("mosaic_tile must be two shares above 0, the smaller one first")
        return self

    @property
    def rule(self) -> PatchRule:
        """What is erased."""
        return PatchRule(self.patches, self.patch_side, self.most_covered)

    def initial_state(self, *, classes: int, unlabeled: int) -> MethodState:
        """An empty cache, see ``pseudo_labels.image_cache``."""
        return empty_cache(self.cache, self.cache_side, self.cache_boxes)

    def student_task(
        self,
        detector: DenseDetector,
        teacher_output: DenseOutput,
        labeled: LabeledBatch,
        unlabeled: UnlabeledBatch,
        state: MethodState | None,
    ) -> StudentTask:
        """See ``MeanTeacher``: the losses on B mixed images and, last, one mosaic; what is mixed in is from before."""
        state = state_or_initial(self, state, detector, unlabeled)
        found = self.pseudo_boxes(detector, teacher_output, unlabeled.weak, self.threshold)
        targets = to_strong_view(found.targets, unlabeled)
        chance = self.chance(unlabeled.random, unlabeled.strong.pixels.device)
        mixed, on_mixed = self.mixup(unlabeled.strong, targets, state, chance)
        mosaic, on_mosaic = self.mosaic(unlabeled.strong, state, chance)
        losses = partial(self.part_losses, detector, on_mixed, on_mosaic)
        after = with_images(state, unlabeled.strong, targets)
        return StudentTask(cat(mixed, mosaic), losses, {"pseudo/boxes": boxes_per_image(targets)}, after)

    def chance(self, random: Tensor, device: torch.device) -> Chance:
        """What the step decides by chance.

        Args:
            random: (B, ``METHOD_RANDOM``) uniform in [0, 1) on the host. Every image has its own; the mosaic takes the
                first one's.
            device: Where the decisions are needed.
        """
        own = self.rule.numbers
        shares = [1, 4, own, own, TILES, 2, TILES * own]
        order, offsets, first, second, tiles, sides, patches = torch.split(
            further_uniforms(random, sum(shares)), shares, dim=1
        )
        decided = Chance(
            # without replacement; again from the beginning where there are more views than places
            order[:, 0].argsort(stable=True) % self.cache,
            offsets,
            torch.stack((first, second)),
            self.cache - TILES + tiles[0].argsort(stable=True),
            sides[0],
            patches[0].view(TILES, own),
        )
        return Chance(*(to_device(device, value) for value in decided))

    def mixup(
        self, strong: ImageBatch, targets: Targets, state: MethodState, chance: Chance
    ) -> tuple[ImageBatch, Targets]:
        """The B strong views mixed with images of the cache, once that is full, and the boxes of both."""
        canvas = (strong.pixels.shape[-2], strong.pixels.shape[-1])
        others, their_targets = cached(state, chance.partners)
        full = _is_full(state).expand(len(strong.sizes))
        rooms = to_device(strong.sizes.device, torch.tensor(strong.canvases or (canvas,) * len(strong.sizes)))
        scale, sides = fitted(others.sizes, rooms)
        own = strong.sizes.double()
        whole = torch.where(full[:, None], torch.maximum(own, sides), own)
        first, second = chance.offsets.double().chunk(2, dim=1)
        here = Places(torch.ones_like(scale), own, (first * (whole - own + 1)).floor())
        there = Places(scale, sides, (second * (whole - sides + 1)).floor())
        images, joined = blended(
            layer(strong, targets, here, chance.patches[0], mirrored=False, canvas=canvas, rule=self.rule),
            layer(others, their_targets, there, chance.patches[1], mirrored=True, canvas=canvas, rule=self.rule),
            whole.long(),
            full,
        )
        return images._replace(canvases=strong.canvases), joined

    def mosaic(self, strong: ImageBatch, state: MethodState, chance: Chance) -> tuple[ImageBatch, Targets]:
        """One mosaic on the canvas of the last strong view, and its boxes; without any until the cache is full."""
        canvas = (strong.pixels.shape[-2], strong.pixels.shape[-1])
        images, targets = cached(state, chance.tiles)
        height, width = strong.canvases[-1] if strong.canvases else canvas
        smallest, largest = self.mosaic_tile
        sides = (smallest + (largest - smallest) * chance.tile_sides.double()) / 2
        room = torch.stack((sides[0] * height, sides[1] * width)).floor()
        places, sizes = tiled_places(images.sizes, room)
        tiles = layer(images, targets, places, chance.tile_patches, mirrored=True, canvas=canvas, rule=self.rule)
        image, joined = tiled(tiles, sizes)
        own: Canvases | None = None if strong.canvases is None else ((height, width),)
        return image._replace(canvases=own), joined._replace(mask=joined.mask & _is_full(state))

    def part_losses(
        self, detector: DenseDetector, on_mixed: Targets, on_mosaic: Targets, output: DenseOutput
    ) -> LossDict:
        """The losses on mixed images plus ``mosaic_weight`` times those on the mosaic, each over its own foreground."""
        mixed, mosaic = chunk(output, [len(on_mixed.mask), len(on_mosaic.mask)])
        total = self.box_losses(detector, on_mixed, None, mixed)
        total = {name: value * on_mixed.mask.any() for name, value in total.items()}
        learned = self.box_losses(detector, on_mosaic, None, mosaic)
        weight = self.mosaic_weight * on_mosaic.mask.any()
        return {name: value + weight * learned[name] for name, value in total.items()}


def _is_full(state: MethodState) -> Tensor:
    return (state["sizes"][:, 0] > 0).all()
