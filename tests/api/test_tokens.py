import numpy as np
import pytest

from geossl.api.tokens import Called, best, compared, joined, verdict, with_tokens
from geossl.data.labels.patches import PatchSamples
from geossl.errors import InputError
from geossl.inference.engine.source import OnlySensors


def called(priority, found):
    priority = np.array(priority, np.uint64)
    return Called(priority, (priority % np.uint64(2)).astype(int), np.array(found))


def test_heads_are_compared_on_the_patches_all_of_them_have():
    scores = compared({"joint": called([1, 2, 3, 4], [1, 0, 0, 0]), "s2": called([1, 2, 5], [1, 0, 0])})
    assert scores == {"joint": 1.0, "s2": 1.0}
    assert compared({"joint": called([1, 2, 3], [1, 0, 0]), "s1": called([1, 2, 3], [0, 0, 0])}) == {
        **{"joint": pytest.approx(0.75), "s1": 0.5}
    }


def test_the_best_tokens_are_taken_and_ties_go_to_all_sensors():
    assert best({"joint": 0.5, "both": 0.6, "s1": 0.4, "s2": 0.55}) == "both"
    assert best({"joint": 0.6, "both": 0.6, "s1": 0.6, "s2": 0.6}) == "joint"
    scores = {"joint": 0.5, "s1": 0.4, "s2": 0.9}
    assert best(scores) == "s2"
    assert verdict(scores, "s2") == (
        "maps use tokens s2 alone (balanced accuracy on validation blocks: joint 0.500, s1 alone 0.400, s2 alone "
        "0.900); places without valid s2 pixels stay empty, --tokens both fills them"
    )


def samples(priority, value):
    n = len(priority)
    x, counts = np.full((n, 2), value, np.float32), np.tile([0, 64], (n, 1))
    return PatchSamples(x, counts, np.zeros(n, int), np.zeros((n, 3), int), np.array(priority, np.uint64))


def test_vectors_of_sensors_are_joined_patch_by_patch():
    known = {"s1": samples([1, 2, 3], 1), "s2": samples([2, 3, 4], 2)}
    both = joined(known, ("s1", "s2"), ("s1", "s2"))
    assert both.priority.tolist() == [2, 3]
    assert both.x.tolist() == [[1, 1, 2, 2]] * 2
    assert joined(known, ("s2",), ("s1", "s2")).x.tolist() == [[0, 0, 2, 2]] * 3


class Pixels:
    dated = False

    def __init__(self, *sensors):
        self.sensors = sensors

    def describe(self):
        return {}

    def footprints(self, crs):
        return {}

    def load(self, geobox):
        raise NotImplementedError


def test_tokens_of_one_sensor_leave_the_others_out():
    source = Pixels("s1", "s2")
    assert with_tokens("e", source, "joint") == ("e", source)
    name, left = with_tokens("e", source, "s1")
    assert (name, left) == ("e", OnlySensors(source, ("s1",)))
    optical = Pixels("s2")
    assert with_tokens("e", optical, "s2") == ("e", optical)
    with pytest.raises(InputError, match="tokens s1: there are pixels of s2 only"):
        with_tokens("e", optical, "s1")
    with pytest.raises(InputError, match="tokens both puts radar and optical side by side, but"):
        with_tokens("e", optical, "both")
    with pytest.raises(InputError, match="tokens .all. is not known; use joint, s1, s2"):
        with_tokens("e", source, "all")
