"""What a recipe says about its views."""

from denseteacher.config import Config
from denseteacher.data.augment.affine import AffineView
from denseteacher.data.augment.strong import StrongView
from denseteacher.data.augment.weak import WeakView


class AugmentConfig(Config):
    """The two views."""

    weak: WeakView = WeakView()
    """What the teacher sees of an unlabeled image, and one of the two views of a labeled one."""
    strong: StrongView = StrongView()
    """What the student sees of an unlabeled image, made from the weak view, and the other view of a labeled one."""
    affine: AffineView | None = None
    """Own geometry of the strong views of unlabeled images; only for methods whose labels can follow it."""
