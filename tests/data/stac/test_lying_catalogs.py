"""Catalogues that say something else than their files: the right pixels, or one line."""

import copy
import shutil
import warnings

import numpy as np
import pytest
import rasterio
from affine import Affine

from geossl import retries
from geossl.errors import GeosslError, Note
from geossl.sensors import S2_BANDS
from tests.data.stac.test_search import find, grid, truth
from tests.servers import scenes
from tests.servers.stac import serving

BOX = grid(1000, 1000, (40, 40))
STORED_AT_10_M = [S2_BANDS.index(band) for band in ("B02", "B03", "B04", "B08")]
GLOBE = [[[-180, -90], [180, -90], [180, 90], [-180, 90], [-180, -90]]]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Files of three scenes, and their items."""
    folder = tmp_path_factory.mktemp("published")
    return folder, {name: getattr(scenes, name)(folder) for name in ("raw", "harmonised", "radar")}


@pytest.fixture
def load(published, monkeypatch):
    """Serves an item as it was changed, and reads it."""
    monkeypatch.setattr(retries.CLOCK, "sleep", lambda seconds: None)

    def of(name, change, sensor="s2", folder=None):
        item = copy.deepcopy(published[1][name])
        items = change(item) or [item]
        with serving(folder or published[0], items) as server:
            return find(server, sensors=[sensor]).load(BOX)[sensor].values

    return of


def said(**properties):
    return lambda item: item["properties"].update(properties)


def on_assets(**values):
    return lambda item: [asset.update(values) for asset in item["assets"].values()] and None


def swapped(item):
    bands = item["assets"]
    bands["B02"], bands["B04"] = bands["B04"], bands["B02"]


def renamed(item):
    item["assets"]["B02"]["eo:bands"] = [{"name": "B04"}]


def twice(item):
    """The same scene before and after it was processed again; the second has the same name, too."""
    return [item, item, {**item, "id": "another", "properties": {**item["properties"], "eo:cloud_cover": 2.0}}]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("harmonised", said(**{"earthsearch:boa_offset_applied": "true"})),
        ("raw", said(**{"s2:processing_baseline": "0510"})),
        ("raw", on_assets(**{"raster:offset": 0})),  # disagrees with the baseline, so that numbers decide
        ("raw", said(**{"proj:epsg": 32633, "proj:shape": [5, 5], "proj:transform": [60, 0, 0, 0, -60, 0]})),
        ("raw", lambda item: item["geometry"].update(coordinates=GLOBE)),
        ("raw", twice),
    ],
)
def test_what_is_said_wrong_changes_no_number(load, name, change):
    found = load(name, change)[STORED_AT_10_M]
    np.testing.assert_allclose(found, truth(BOX)[STORED_AT_10_M] / 10000, atol=2e-4)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("harmonised", said(**{"earthsearch:boa_offset_applied": None}), "said to carry .1000, but 9. % lie below 500"),
        ("raw", swapped, "no valid scene"),
        ("raw", renamed, "no valid scene"),
        ("raw", said(**{"eo:cloud_cover": "clear"}), "no valid scene"),
        ("raw", lambda item: item["assets"].update(B02={"title": "x"}), "no valid scene"),
        ("raw", lambda item: item["assets"].update(B02={"href": "{url}/files/none.tif"}), "B02: .* cannot be read"),
    ],
)
def test_what_cannot_be_right_is_one_line(load, name, change, message):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)  # the reason of each scene that is left out
        with pytest.raises(GeosslError, match=message) as error:
            load(name, change)
    assert "\n" not in str(error.value)


def test_reasons_of_scenes_that_are_left_out_are_said(load):
    with pytest.warns(Note, match=r"asset B02 is B04 by its file.s name"), pytest.raises(GeosslError):
        load("raw", swapped)
    with pytest.warns(Note, match="says that numbers do not carry .1000, but a block is nowhere dark"):
        load("raw", said(**{"earthsearch:boa_offset_applied": True}))


def written(path, change, **profile):
    """A file of the scene, changed."""
    with rasterio.open(path) as file:
        data, own = change(file.read(1)), {"crs": file.crs, "transform": file.transform, "nodata": file.nodata}
    path.unlink()
    own = {**own, **profile, "height": data.shape[0], "width": data.shape[1], "dtype": data.dtype}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="GTiff", count=1, **own) as file:
            file.write(data, 1)


@pytest.mark.parametrize(
    ("change", "profile", "message"),
    [
        (lambda x: x[::2, ::2], {}, "scene raw: B02 lies elsewhere than B01"),
        (lambda x: x, {"crs": "EPSG:32633"}, "B02 lies elsewhere"),
        (lambda x: x, {"crs": None}, "B02: .* has no CRS or no transform"),
        (lambda x: x, {"transform": Affine.identity()}, "B02: .* has no CRS or no transform"),
        (lambda x: (x / 10000).astype(np.float32), {}, "numbers such as 0.1.* are not reflectance x 10000"),
    ],
)
def test_files_of_wrong_sizes_places_and_units_are_one_line(load, published, tmp_path, change, profile, message):
    shutil.copytree(published[0] / "raw", tmp_path / "raw")
    written(tmp_path / "raw/B02.tif", change, **profile)
    with pytest.raises(GeosslError, match=message):
        load("raw", lambda item: None, folder=tmp_path)


def test_radar_of_another_scale_is_one_line(load, published, tmp_path):
    shutil.copytree(published[0] / "radar", tmp_path / "radar")
    for band in ("vv", "vh"):
        written(tmp_path / f"radar/{band}.tif", lambda x: np.where(x > 0, x * 1000, x))
    with pytest.raises(GeosslError, match="scene radar, VV: radar numbers about .* are not linear power"):
        load("radar", lambda item: None, "s1", tmp_path)


def test_radar_amplitudes_are_said(load, published, tmp_path):
    shutil.copytree(published[0] / "radar", tmp_path / "radar")
    for band in ("vv", "vh"):
        written(tmp_path / f"radar/{band}.tif", lambda x: np.where(x > 0, np.sqrt(np.abs(x)), x))
    with pytest.warns(Note, match=r"scene radar: .* look like 10\*log10 of amplitudes"):
        load("radar", lambda item: None, "s1", tmp_path)


def test_numbers_of_another_scale_are_said_or_refused(load, published, tmp_path):
    for folder, factor in (("dark", 0.1), ("bright", 4.0)):  # 6.6 is refused as too bright
        shutil.copytree(published[0] / "harmonised", tmp_path / folder / "harmonised")
        for path in (tmp_path / folder / "harmonised").glob("B*.tif"):
            written(path, lambda x, factor=factor: (x * factor).astype(np.uint16))
    with pytest.warns(Note, match="scene harmonised: a block is darker than land or water is, .* x 1000"):
        load("harmonised", lambda item: None, folder=tmp_path / "dark")
    with pytest.raises(GeosslError, match="brighter than 0.9 in B08 and not half as bright in B04, .*scene out with"):
        load("harmonised", lambda item: None, folder=tmp_path / "bright")
