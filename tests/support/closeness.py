"""How near two results must be that were computed in two ways: the one place where tests say so.

Bit for bit equal (``torch.equal``, ``assert_same``) is only what the same operators compute twice on one machine with
the same number of threads. Whatever another runtime, another CPU, another torch version or another order of the same
sums computed is off by rounding, which is in proportion to the *largest* terms of a sum: a small number beside large
ones is no more exact than they are. So the tolerance is a share of the largest magnitude, not of each number.

One fp32 operator rounds by 6e-8, a deep network by 1e-6 to 1e-5 of its largest output. The default share, 1e-4, is
above both, and far below any mistake worth finding.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

SHARE = 1e-4


def assert_close_to_scale(
    actual: Any, expected: Any, *, share: float = SHARE, scale: float | None = None, what: str = "the result"
) -> None:
    """Requires that no number is farther off than a share of the largest magnitude of what is expected.

    Args:
        actual: Tensor, array, number or nested list; or a mapping of them, each of its own scale.
        expected: The same of the reference. Infinite and NaN where ``actual`` is, too.
        share: Largest deviation over ``scale``.
        scale: Size of the numbers, where ``expected`` does not show it: the canvas in px, 1 for a probability.
        what: Name of the numbers in the message.
    """
    if isinstance(expected, Mapping):
        assert actual.keys() == expected.keys()
        for key in expected:
            assert_close_to_scale(actual[key], expected[key], share=share, scale=scale, what=f"{what}[{key!r}]")
        return
    found, wanted = _as_array(actual), _as_array(expected)
    assert found.shape == wanted.shape, f"{what} has shape {found.shape}, not {wanted.shape}"
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(found[~finite], wanted[~finite], err_msg=what)
    found, wanted = found[finite], wanted[finite]
    if not wanted.size:
        return
    off = np.abs(found - wanted)  # NaN where only ``actual`` is
    largest = float(np.abs(wanted).max()) if scale is None else scale
    worst = int(np.argmax(np.where(np.isnan(off), np.inf, off)))
    assert off[worst] <= share * largest, (
        f"{what}: {found[worst]:.9g} is not {wanted[worst]:.9g}, off by {off[worst]:.2g} where {share * largest:.2g} "
        f"is allowed ({share:g} of {largest:.4g}); {(~(off <= share * largest)).sum()} of {off.size} numbers are off"
    )


def assert_same_detections(
    actual: Any, expected: Any, *, share: float = SHARE, spare: float = 0.1, what: str = "the detections"
) -> None:
    """Requires that two ways to detect find the same in an image, but for what lies at a threshold.

    Whether a score passes the floor, whether two boxes overlap enough and which of two equal scores comes first turns
    on a rounding. So each detection must have a partner, of its class, with its box and its score, but a few among
    many may have none; where there are less than ten, all must.

    Args:
        actual: (boxes, scores, labels) of an image, the best first: (D, 4) px, (D,), (D,).
        expected: The same of the reference.
        share: Largest deviation of a coordinate over the largest coordinate, and of a score.
        spare: Share of the detections that may lack a partner.
        what: Name of the detections in the message.
    """
    (boxes, scores, labels), (other_boxes, other_scores, other_labels) = (
        [_as_array(field) for field in fields] for fields in (actual, expected)
    )
    assert (np.diff(scores) <= 0).all(), f"{what}: the scores do not fall"
    assert np.isfinite(boxes).all(), what
    largest = max(np.abs(other_boxes).max(initial=0), 1.0)
    partner = (
        (np.abs(boxes[:, None] - other_boxes).max(-1, initial=0) <= share * largest)
        & (np.abs(scores[:, None] - other_scores) <= share)
        & (labels[:, None] == other_labels)
    )
    alone = (~partner.any(1)).sum(), (~partner.any(0)).sum()
    allowed = int(spare * min(len(scores), len(other_scores)))
    assert max(alone) <= allowed, (
        f"{what}: {alone[0]} of {len(scores)} found and {alone[1]} of {len(other_scores)} expected have no partner"
    )
    assert abs(len(scores) - len(other_scores)) <= allowed, f"{what}: {len(scores)}, not {len(other_scores)}"


def _as_array(value: Any) -> np.ndarray:
    """In float64, so that nothing is rounded once more."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().double().numpy()
    return np.asarray(value, dtype=np.float64)
