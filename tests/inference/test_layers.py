"""Dates of a map side by side."""

import numpy as np

from geossl.inference.layers import beside, most_often


def test_the_usual_sensors_are_those_of_most_dates():
    flags = np.array([[[2, 0, 7]], [[7, 0, 7]], [[7, 0, 2]], [[2, 0, 0]]], np.uint8)
    assert most_often(flags).tolist() == [[7, 0, 7]]  # of as many the larger number; 0 where nothing is known
    assert most_often(np.zeros((2, 1, 3), np.uint8)).tolist() == [[0, 0, 0]]


def test_a_missing_date_takes_the_nearest_of_two_the_earlier():
    values = np.arange(5, dtype=np.float32)[:, None, None, None] * np.ones((5, 2, 1, 3), np.float32)
    flags = np.array([[2, 2, 0], [0, 7, 0], [0, 0, 0], [2, 7, 0], [2, 2, 0]], np.uint8)[:, None, None, :]
    found = beside(values, flags).reshape(5, 2, 3)
    assert found[:, 0, 0].tolist() == [0, 0, 3, 3, 4]  # date 1 is nearer to 0, date 2 to 3
    assert found[:, 0, 1].tolist() == [1, 1, 1, 3, 3]  # 7 as often as 2: those of one sensor do not count
    assert np.isnan(found[:, :, 2]).all()
