"""Objects that the training scale puts out of reach of every level."""

from denseteacher.check.findings import Finding, Severity, finding
from denseteacher.data.objects import objects_of
from denseteacher.data.records import LabeledImages
from denseteacher.object_scales import Scales


def scale_findings(labeled: LabeledImages, scales: Scales) -> list[Finding]:
    """Objects that the detector is hardly or never trained on."""
    owner, missed, extents = objects_of(labeled).owner, scales.missed, scales.extents
    examples = [
        f"{labeled.images[owner[index]].name}: {extents[index, 0]:.1f} x {extents[index, 1]:.1f} px in the view"
        for index in missed
    ]
    severity: Severity = "warning" if scales.misses_many else "info"
    if scales.detector == "fcos":
        meaning = "no location of FCOS is trained on them at the size of the training views"
        return finding(severity, "object outside of all levels", "labeled", examples, meaning)
    meaning = "at the size of the training views, only their best anchor is trained on them"
    return finding(severity, "object that no anchor fits", "labeled", examples, meaning)
