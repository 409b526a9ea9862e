"""The verbs on tuples of tensors, against the same done field by field."""

import pytest
import torch
from tests.support import dense_output, semi_batch, tensors_of

from denseteacher.structures import cat, chunk, take, to


def rows_of(tree, rows):
    return [tensor[rows] for tensor in tensors_of(tree)]


def same(trees, others):
    pairs = list(zip(trees, others, strict=True))
    assert pairs
    return all(torch.equal(one, other) for one, other in pairs)


def test_take_is_a_row_of_every_tensor():
    batch = semi_batch(labeled=4, unlabeled=4)
    chosen = torch.tensor([2, 0])
    for rows in (chosen, slice(1, 3), slice(0, 0)):
        assert same(tensors_of(take(batch, rows)), rows_of(batch, rows))
    assert take(batch, chosen).unlabeled.to_strong is None
    assert take(batch._replace(unlabeled=None), chosen).unlabeled is None


@pytest.mark.parametrize("parts", [1, 2, 4, [1, 3], [3, 1], [4]])
def test_chunk_and_cat_undo_each_other(parts):
    batch = semi_batch(labeled=4, unlabeled=4)
    pieces = chunk(batch, parts)
    assert [len(one.labeled.weak.sizes) for one in pieces] == (
        [4 // parts] * parts if isinstance(parts, int) else parts
    )
    assert type(pieces[0]) is type(batch)
    assert same(tensors_of(cat(*pieces)), tensors_of(batch))


def test_a_batch_with_other_numbers_of_each_kind_is_cut_in_equal_parts():
    halves = chunk(semi_batch(labeled=2, unlabeled=6), 2)
    assert [(len(one.labeled.weak.sizes), len(one.unlabeled.weak.sizes)) for one in halves] == [(1, 3), (1, 3)]


def test_anchors_belong_to_all_images():
    output = dense_output(0, batch=3, locations=5, classes=2)
    first, second = chunk(output, [1, 2])
    assert first.anchors is second.anchors is output.anchors
    assert take(output, slice(1, 2)).anchors.shape == (5, 4)
    assert same(tensors_of(cat(first, second)), tensors_of(output))
    assert same(tensors_of(to(output, torch.device("cpu"))), tensors_of(output))
    assert {tensor.device.type for tensor in tensors_of(to(output, torch.device("meta")))} == {"meta"}


def test_gradients_pass():
    output = dense_output(0, batch=3, locations=5, classes=2)
    logits = output.logits.requires_grad_()
    pieces = chunk(output, [1, 2])
    (pieces[0].logits.sum() + 2 * cat(*pieces).logits.sum()).backward()
    assert torch.equal(logits.grad[:, 0, 0], torch.tensor([3.0, 2.0, 2.0]))
