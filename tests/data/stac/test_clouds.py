"""Clouds by omnicloudmask: its real API with a stand-in for its weights, which are not shipped."""

import sys

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation, binary_erosion
from torch import nn

from geossl.data.stac import clouds
from geossl.errors import InputError
from tests.data.stac.test_search import catalog, find, grid  # noqa: F401  (a fixture)
from tests.servers import scenes

BRIGHT = np.s_[150:230, 470:560]  # across column 512, where two of the squares meet that the model sees


class Flatness(nn.Module):
    """Calls red that does not change over 3 x 3 pixels thick cloud; notes what it is given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(tuple(x.shape))
        change = nn.functional.max_pool2d(x[:, 0], 3, 1, 1) + nn.functional.max_pool2d(-x[:, 0], 3, 1, 1)
        cloud = 1 - 1000 * change
        return torch.stack([-cloud, cloud, -torch.ones_like(cloud), -torch.ones_like(cloud)], dim=1)


@pytest.fixture
def cloudy(catalog, monkeypatch):  # noqa: F811
    """A catalogue of one scene with a bright block, and the stand-in."""
    pytest.importorskip("omnicloudmask")
    clear = scenes.mirrored

    def with_cloud(sensor):
        data = clear(sensor).copy()
        if sensor == "s2":
            data[(slice(None), *BRIGHT)] = 9000
        return data

    monkeypatch.setattr(scenes, "mirrored", with_cloud)
    model = Flatness()
    monkeypatch.setattr(clouds, "OWN_MODELS", model)
    clouds.square.cache_clear()
    yield catalog(scenes.raw), model
    clouds.square.cache_clear()


def test_what_omnicloudmask_calls_cloud_is_left_out_with_forty_metres_around(cloudy):
    server, model = cloudy
    box = grid(0, 0, (scenes.SIZE, scenes.SIZE))
    lost = np.isnan(find(server, mask="omnicloudmask").load(box)["s2"].values[0])
    expected = np.zeros(box.shape, dtype=bool)
    expected[BRIGHT] = True
    expected = binary_erosion(expected, np.ones((3, 3)))
    np.testing.assert_array_equal(lost, binary_dilation(expected, clouds.DISK))
    assert not np.isnan(find(server).load(box)["s2"].values[0]).any()  # the scene classes say nothing
    assert {shape[1] for shape in model.seen} == {3}
    assert min(min(shape[2:]) for shape in model.seen) >= 352  # squares that are mostly beyond the scene are halved


def test_what_is_left_out_does_not_depend_on_the_block(cloudy):
    source = find(cloudy[0], mask="omnicloudmask")
    whole = source.load(grid(4000, 1000, (150, 200)))["s2"].values
    clouds.square.cache_clear()
    for rows, columns in (
        (slice(0, 60), slice(0, 90)),
        (slice(40, 150), slice(85, 140)),
        (slice(0, 3), slice(111, 113)),
    ):
        part = source.load(grid(4000, 1000, (150, 200))[rows, columns])["s2"].values
        np.testing.assert_array_equal(part, whole[:, rows, columns])


def test_the_mask_is_part_of_what_a_map_is_made_from(cloudy):
    metadata = find(cloudy[0], mask="omnicloudmask").describe()
    assert (metadata["search"]["mask"], metadata["s2"][0]["mask"]) == ("omnicloudmask", "omnicloudmask")


def test_a_missing_package_or_weights_are_one_line(catalog, monkeypatch, tmp_path):  # noqa: F811
    with pytest.raises(InputError, match="mask 'best' is not known; use scl, omnicloudmask"):
        find(catalog(), mask="best")
    real = pytest.importorskip("omnicloudmask.download_models")

    def offline():
        raise OSError("no route to\nhuggingface.co")

    monkeypatch.setattr(real, "get_models", offline)
    with pytest.raises(
        InputError, match=r"weights of omnicloudmask are not in .*\(no route to huggingface.co\); connect"
    ):
        find(catalog(), mask="omnicloudmask")
    monkeypatch.setitem(sys.modules, "omnicloudmask.download_models", None)
    with pytest.raises(InputError, match=r"pip install 'geossl\[clouds\]'"):
        find(catalog(), mask="omnicloudmask")
