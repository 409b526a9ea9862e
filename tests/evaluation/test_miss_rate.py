"""Miss rate, worked by hand (random scenes: reference/test_miss_rate.py)."""

import copy
import math
import time

import numpy as np
import pytest

from denseteacher.errors import InputError
from denseteacher.evaluation.miss_rate import log_average_miss_rate


def truth(people, ignored=(), *, images=1):
    boxes = [*((box, 0) for box in people), *((box, 1) for box in ignored)]
    return {
        "images": [{"id": number, "width": 200, "height": 100} for number in range(1, images + 1)],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": box, "iscrowd": crowd} for box, crowd in boxes],
    }


def found(box, score=0.5, image=1):
    return {"image_id": image, "category_id": 1, "bbox": box, "score": score}


ONE, TWO, FAR = [0, 0, 20, 40], [50, 0, 20, 40], [150, 0, 20, 40]


def test_half_of_the_people_found_without_a_mistake():
    result = log_average_miss_rate(truth([ONE, TWO]), [found(ONE)])
    assert result.mMR == pytest.approx(50)  # the last point stands for all references, which are not reached
    assert result.recall == pytest.approx(50)
    assert result.AP == 0  # from the first detection on: one point has no area


def test_the_miss_rate_is_read_where_a_reference_is_first_reached():
    # ten images: each mistake is 0.1 a picture, which reaches the references up to 0.1; the second those to 0.1778
    results = [found(FAR, 0.9), found(ONE, 0.8), found(FAR, 0.7, image=2), found(TWO, 0.6)]
    result = log_average_miss_rate(truth([ONE, TWO], images=10), results)
    np.testing.assert_allclose(result.fppi, [0.1, 0.1, 0.2, 0.2])
    np.testing.assert_allclose(result.miss_rates, [1, 0.5, 0.5, 0])
    np.testing.assert_allclose(result.scores, [0.9, 0.8, 0.7, 0.6])
    # 0.01 to 0.1: missed 1; 0.1778: 0.5; the other three at the last point, whose 0 counts as 1e-10
    assert result.mMR == pytest.approx(100 * math.exp((math.log(0.5) + 3 * math.log(1e-10)) / 9))
    area = 0.5 * (0 + 1 / 2) / 2 + 0.5 * (1 / 3 + 2 / 4) / 2
    assert pytest.approx(100 * area) == result.AP


def test_an_ignore_region_takes_any_number_of_detections_and_people_come_first():
    scene = truth([ONE], [[0, 0, 100, 100]])
    inside = [found([30, 50, 20, 40], 0.9), found([60, 50, 20, 40], 0.8), found([0, 0, 20, 41], 0.1)]
    result = log_average_miss_rate(scene, [found(ONE, 0.2), *inside])
    assert len(result.scores) == 1  # also the second box of the person lies in the region
    assert result.recall == 100
    half_inside = found([90, 50, 20, 40], 0.9)  # just half of it: not more
    assert len(log_average_miss_rate(scene, [half_inside]).scores) == 1
    assert len(log_average_miss_rate(scene, [found([89, 50, 20, 40])]).scores) == 0


def test_an_overlap_of_half_is_no_match():
    assert log_average_miss_rate(truth([[0, 0, 20, 40]]), [found([0, 0, 20, 20])]).recall == 0
    assert log_average_miss_rate(truth([[0, 0, 20, 40]]), [found([0, 0, 20, 20.1])]).recall == 100


def test_boxes_are_cut_to_their_image():
    standing_out, seen = [-60, 0, 80, 40], [0, 0, 20, 40]
    assert log_average_miss_rate(truth([standing_out]), [found(seen)]).recall == 100
    assert log_average_miss_rate(truth([seen]), [found([0, -60, 20, 100])]).recall == 100
    outside = log_average_miss_rate(truth([seen]), [found([300, 0, 20, 40])])
    np.testing.assert_allclose(outside.fppi, [1])


def test_a_person_is_found_once_and_neighbors_by_what_is_left():
    near = [5, 0, 20, 40]
    result = log_average_miss_rate(truth([ONE, near]), [found(ONE, 0.9), found([1, 0, 20, 40], 0.8), found(ONE, 0.1)])
    np.testing.assert_allclose(result.miss_rates, [0.5, 0, 0])  # the second takes the neighbor
    np.testing.assert_allclose(result.fppi, [0, 0, 1])


def test_nobody_found_and_nobody_there():
    nothing = log_average_miss_rate(truth([ONE]), [])
    assert (nothing.mMR, nothing.AP, nothing.recall, len(nothing.fppi)) == (100, 0, 0, 0)
    for results in ([], [found(ONE)]):
        nobody = log_average_miss_rate(truth([], [FAR]), results)
        assert all(math.isnan(value) for value in nobody[:3])
        assert len(nobody.fppi) == len(nobody.miss_rates) == len(nobody.scores) == len(results)
    assert math.isnan(log_average_miss_rate(truth([], images=0), []).mMR)
    perfect = log_average_miss_rate(truth([ONE]), [found(ONE)])
    assert perfect.mMR == pytest.approx(1e-8)
    assert {type(value) for value in perfect[:3]} == {float}  # NumPy's own can't be checkpointed


def test_what_does_not_fit_is_named():
    two = truth([ONE])
    two["categories"].append({"id": 2, "name": "mask"})
    with pytest.raises(InputError, match="of one class, but there are 2: person, mask"):
        log_average_miss_rate(two, [])
    small = truth([ONE])
    del small["images"][0]["width"]
    with pytest.raises(InputError, match="image 1 has no width or height"):
        log_average_miss_rate(small, [])
    with pytest.raises(InputError, match="result 0 is of image 7"):
        log_average_miss_rate(truth([ONE]), [found(ONE, image=7)])


def test_a_data_set_of_crowds_takes_seconds_and_nothing_is_changed():
    random = np.random.default_rng(0)
    scene = truth([], images=437)  # a tenth of CrowdHuman's validation set
    for image in range(1, 438):
        for _ in range(23):
            box = [*random.uniform(0, 80, 2).tolist(), 30.0, 60.0]
            scene["annotations"].append({"image_id": image, "category_id": 1, "bbox": box, "iscrowd": 0})
    results = [
        found([*random.uniform(0, 90, 2).tolist(), 30.0, 60.0], float(random.random()), 1 + number % 437)
        for number in range(437 * 300)
    ]
    before = copy.deepcopy((scene, results[:100]))
    start = time.perf_counter()
    assert 0 < log_average_miss_rate(scene, results).mMR < 100
    assert time.perf_counter() - start < 5
    assert (scene, results[:100]) == before
