"""A step in parts, for a device that can't hold it whole."""

from denseteacher.structures import ImageBatch, Provenance, SemiBatch, Targets


def split_batch(batch: SemiBatch, parts: int) -> list[SemiBatch]:
    """Cuts every view of a step into equal parts."""
    if parts == 1:
        return [batch]

    def images(view: ImageBatch | None) -> list[ImageBatch | None]:
        if view is None:
            return [None] * parts
        pairs = zip(view.pixels.chunk(parts), view.sizes.chunk(parts), strict=True)
        return [ImageBatch(pixels, sizes) for pixels, sizes in pairs]

    columns = zip(
        images(batch.labeled_weak),
        images(batch.labeled_strong),
        _split_targets(batch.targets, parts),
        images(batch.unlabeled_weak),
        images(batch.unlabeled_strong),
        _split_provenance(batch.provenance, parts),
        strict=True,
    )
    return [SemiBatch(*views) for views in columns]


def _split_targets(targets: Targets, parts: int) -> list[Targets]:
    return [Targets(*fields) for fields in zip(*(field.chunk(parts) for field in targets), strict=True)]


def _split_provenance(provenance: Provenance | None, parts: int) -> list[Provenance | None]:
    if provenance is None:
        return [None] * parts
    positions, to_weak, to_strong, numbers, hidden = provenance
    return [
        Provenance(*fields)
        for fields in zip(
            positions.chunk(parts),
            to_weak.chunk(parts),
            [None] * parts if to_strong is None else to_strong.chunk(parts),
            numbers.chunk(parts),
            [None] * parts if hidden is None else _split_targets(hidden, parts),
            strict=True,
        )
    ]
