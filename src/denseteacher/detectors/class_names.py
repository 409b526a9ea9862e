"""Which class names mean the same class."""

import re
from collections.abc import Sequence

_SYNONYMS = (
    ("airplane", "aeroplane", "plane"),
    ("motorcycle", "motorbike"),
    ("couch", "sofa"),
    ("tv", "tvmonitor", "television"),
    ("cellphone", "mobilephone"),
    ("hairdrier", "hairdryer"),
    ("donut", "doughnut"),
    ("tennisracket", "tennisracquet"),
    ("refrigerator", "fridge"),
)
"""Pascal VOC's and COCO's names, and spellings; potted plant and dining table differ in a space alone."""
_CANONICAL = {name: names[0] for names in _SYNONYMS for name in names}


def canonical_name(name: str) -> str:
    """A class name without what makes no difference: case, spaces, ``_``, ``-``, and which of its synonyms it is."""
    bare = re.sub(r"[\s_-]+", "", name.casefold())
    return _CANONICAL.get(bare, bare)


def match_classes(names: Sequence[str], others: Sequence[str]) -> dict[int, int]:
    """The index of the same class among other names, by index of the name; without those that have none.

    Args:
        names: K class names.
        others: Class names; empty ones are not a class. Of several that mean the same, the one spelled alike is taken,
            or else the first.
    """
    index: dict[str, int] = {}
    for number, other in enumerate(others):
        if canonical_name(other):
            index.setdefault(canonical_name(other), number)
    exact = {other: number for number, other in enumerate(others) if canonical_name(other)}
    found = {number: exact.get(name, index.get(canonical_name(name))) for number, name in enumerate(names)}
    return {number: other for number, other in found.items() if other is not None}
