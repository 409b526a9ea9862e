"""VOC AP, worked by hand (random scenes: reference/test_voc_ap.py)."""

import math

import pytest

from denseteacher.errors import InputError
from denseteacher.evaluation.voc_map import voc_map

ONE, TWO, THREE, NOWHERE = [0, 0, 20, 20], [50, 0, 20, 20], [100, 0, 20, 20], [200, 0, 20, 20]


def truth(*boxes, classes=1, **fields):
    return {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": number, "name": f"class {number}"} for number in range(1, classes + 1)],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": box, **fields} for box in boxes],
    }


def found(box, score=0.5, image=1, category=1):
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def both(ground_truth, results):
    return list(voc_map(ground_truth, results).values.values())


def test_one_of_two_objects_found():
    assert both(truth(ONE, TWO), [found(ONE)]) == pytest.approx([100 * 6 / 11, 50])  # recalls 0 to 0.5


def test_the_two_definitions():
    results = [found(ONE, 0.9), found(NOWHERE, 0.8), found(TWO, 0.7), found(NOWHERE, 0.6), found(THREE, 0.5)]
    # precision 1 to recall 1/3, 2/3 to 2/3, 3/5 to 1
    expected = [100 * (4 * 1 + 3 * 2 / 3 + 4 * 3 / 5) / 11, 100 * (1 + 2 / 3 + 3 / 5) / 3]
    assert both(truth(ONE, TWO, THREE), results) == pytest.approx(expected)


def test_a_recall_of_three_tenths_reaches_that_point():
    boxes = [[30.0 * number, 0, 20, 20] for number in range(10)]
    for count in range(11):
        results = [found(box) for box in boxes[:count]]
        eleven, area = both(truth(*boxes), results)
        assert eleven == pytest.approx(100 * (count + 1) / 11 if count else 0)
        assert area == pytest.approx(10 * count)


def test_a_second_box_on_an_object_is_a_mistake_even_beside_a_free_one():
    near = [4, 0, 20, 20]
    results = [found(ONE, 0.9), found([1, 0, 20, 20], 0.8)]  # overlaps the second object enough, the first more
    assert both(truth(ONE, near), results) == pytest.approx([100 * 6 / 11, 50])
    assert both(truth(ONE), [found(ONE, 0.8), found(ONE, 0.9)]) == pytest.approx([100, 100])


def test_difficult_objects_are_neither_found_nor_missed():
    scene = truth(ONE, TWO)
    scene["annotations"][1]["difficult"] = 1
    results = [found(TWO, 0.9), found(TWO, 0.8), found(ONE, 0.7)]
    assert both(scene, results) == pytest.approx([100, 100])
    assert both(scene, []) == [0, 0]
    assert all(math.isnan(value) for value in both(truth(ONE, difficult=1), [found(ONE)]))
    assert both(truth(ONE, difficult=0), [found(ONE)]) == pytest.approx([100, 100])


def test_crowds_count_as_difficult():
    scene = truth(ONE, TWO)
    scene["annotations"][1]["iscrowd"] = 1
    assert both(scene, [found(TWO, 0.9), found(ONE, 0.7)]) == pytest.approx([100, 100])


def test_half_an_overlap_is_enough():
    assert both(truth([0, 0, 20, 20]), [found([0, 0, 20, 10])]) == pytest.approx([100, 100])
    assert both(truth([0, 0, 20, 20]), [found([0, 0, 20, 9.99])]) == [0, 0]


def test_pixels_first_and_last_give_the_kits_overlap():
    """The kit: pixels 1..10 by 1..10 and 1..10 by 1..5 share 10 x 5 of 10 x 10; its widths are last - first + 1."""
    first, second = [1 - 1, 1 - 1, 10, 10], [1 - 1, 1 - 1, 10, 5]  # outer edges, as the reader makes them
    assert both(truth(first), [found(second)]) == pytest.approx([100, 100])


def test_classes_are_apart_and_those_without_objects_left_out():
    scene = truth(ONE, classes=3)
    scene["annotations"].append({"image_id": 2, "category_id": 3, "bbox": ONE})
    result = voc_map(scene, [found(ONE), found(ONE, category=2), found(ONE, 0.9, image=1, category=3)])
    assert result.per_class["class 1"] == {"VOC07 AP50": pytest.approx(100), "VOC AP50": pytest.approx(100)}
    assert all(math.isnan(value) for value in result.per_class["class 2"].values())
    assert result.per_class["class 3"] == {"VOC07 AP50": 0, "VOC AP50": 0}
    assert result.values == {"VOC07 AP50": pytest.approx(50), "VOC AP50": pytest.approx(50)}
    assert {type(value) for value in result.values.values()} == {float}


def test_bad_results_are_named():
    with pytest.raises(InputError, match="result 0, of image 1, has a score or box not finite"):
        voc_map(truth(ONE), [found(ONE, math.nan)])
