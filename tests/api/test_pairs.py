import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from click.testing import CliRunner
from odc.geo.geobox import GeoBox

import geossl
from geossl.api.change import open_pair
from geossl.cli.commands import main
from geossl.errors import InputError, MissingFileError
from geossl.models.files import EncoderFile
from tests.api.test_change import written

GRID = GeoBox((60, 70), Affine(80, 0, 400_000, 0, -80, 4_600_000), "EPSG:32631")
DIM = 8
SQUARES = [(r, c) for r in range(2, 56, 9) for c in range(3, 66, 10)]  # 4 x 4 patches; every other one changed
CHANGED = {square for i, square in enumerate(SQUARES) if i % 2}


@pytest.fixture(scope="module")
def encoder():
    return EncoderFile.portable("croma_tiny").cut(DIM)


@pytest.fixture(scope="module")
def maps(encoder, tmp_path_factory):
    """Ground that differs from place to place far more than change does; the second date is lighter all over."""
    folder, rng = tmp_path_factory.mktemp("pair"), np.random.default_rng(0)
    before = rng.normal(scale=3, size=(DIM, *GRID.shape))
    after = 1.5 * before + 4 + rng.normal(scale=0.3, size=before.shape)
    for row, column in CHANGED:
        after[0, row : row + 4, column : column + 4] += 4 * rng.choice([-1, 1], size=(4, 4))
    before[:, 0], sensors = np.nan, np.full(GRID.shape, 2, np.uint8)
    other = sensors.copy()
    other[-1] = 1  # of another sensor at the second date
    about = {"encoder_sha256": encoder.sha256, "encoder": "croma_tiny"}
    return (
        written(folder / "a.zarr", before, grid=GRID, day="2020-06-01", sensors=sensors, **about),
        written(folder / "b.zarr", after, grid=GRID, day="2021-06-01", sensors=other, **about),
    )


def outline(row, column):
    return GRID[row : row + 4, column : column + 4].extent.geom


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    path = tmp_path_factory.mktemp("labels") / "changes.gpkg"
    names = ["changed" if square in CHANGED else "same" for square in SQUARES]
    gpd.GeoDataFrame({"class": names}, geometry=[outline(*s) for s in SQUARES], crs=GRID.crs.to_wkt()).to_file(path)
    return path


@pytest.fixture(scope="module")
def model(maps, labels, tmp_path_factory):
    out = tmp_path_factory.mktemp("model") / "m.safetensors"
    return geossl.finetune(labels, pair=maps, column="class", out=out)


def test_a_patch_is_both_vectors_and_their_difference_each_date_by_itself(maps):
    pair = open_pair(maps)
    found = pair.embeddings.values
    assert found.shape == (3 * DIM, *GRID.shape)
    a, b, apart = np.split(found, 3)
    usable = np.isfinite(found).all(axis=0)
    assert not usable[0].any()
    assert not usable[-1].any()
    assert usable[1:-1].all()
    np.testing.assert_allclose(apart[:, usable], np.abs(a - b)[:, usable], atol=1e-5)
    calm = np.ones(GRID.shape, bool)
    for row, column in SQUARES:
        calm[row : row + 4, column : column + 4] = False
    assert np.abs(apart[:, usable & calm]).mean() < 0.15  # the lighter date is no change
    assert (pair.sensors.values == np.where(usable, 2, 0)).all()
    rechunked = pair.embeddings.chunk(y=7, x=11)
    np.testing.assert_array_equal(rechunked.values, found)


def test_a_head_learns_change_that_distance_hides(maps, model, tmp_path):
    out = tmp_path / "c.tif"
    done = CliRunner().invoke(main, ["change", *map(str, maps), "--model", str(model), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "changed" in done.output
    with rasterio.open(out) as file:
        found, names = file.read(1), file.tags(1).get("CLASS_NAMES") or file.tags().get("CLASS_NAMES")
    assert '"changed"' in names
    truth = np.ones(GRID.shape, np.uint8)
    for row, column in CHANGED:
        truth[row : row + 4, column : column + 4] = 0
    known = found != 255
    assert known.sum() == 58 * 70
    hit, calm = found[known & (truth == 0)] == 0, found[known & (truth == 1)] == 1
    assert (hit.mean() + calm.mean()) / 2 > 0.9


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda m, maps, out: geossl.segment(map=maps[0], model=m, out=out), "tells change between two maps"),
        (lambda m, maps, out: geossl.segment(map=maps, classes=3, out=out), "answers for one map"),
        (lambda m, maps, out: geossl.segment(map=(maps[0], maps[0]), model=m, out=out), "are the same map"),
        (lambda m, maps, out: geossl.segment(map=(maps[0], "b.zarr"), model=m, out=out), "b.zarr does not exist"),
        (lambda m, maps, out: geossl.segment("sample", geossl.Rasters(s2="sample"), model=m, out=out), "two maps"),
    ],
)
def test_models_of_change_and_of_one_map_are_not_mixed_up(maps, model, tmp_path, call, reason):
    with pytest.raises((InputError, MissingFileError), match=reason):
        call(model, maps, tmp_path / "c.tif")
    assert not (tmp_path / "c.tif").exists()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"map": "a.zarr"}, "map and pair do not go together"),
        ({"pair": ("a.zarr",)}, "must name two maps"),
        ({"pair": "a.zarr"}, "must name two maps"),
        ({"head": "unet"}, "which a map does not hold"),
        ({"encoder": "galileo_nano"}, "was made by croma_tiny"),
        ({"source": geossl.Rasters(s2="sample")}, "nothing|leave"),
    ],
)
def test_what_does_not_fit_a_pair_is_refused(maps, labels, tmp_path, settings, reason):
    with pytest.raises(InputError, match=reason):
        geossl.finetune(labels, column="class", out=tmp_path / "m.safetensors", **{"pair": maps, **settings})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--strata", "2"], "--strata does nothing beside --model"),
        (["--false-alarms", "0.1"], "--false-alarms does nothing"),
        (["c.zarr"], "does not exist"),
    ],
)
def test_options_of_the_distance_are_refused_beside_a_model(maps, model, more, reason):
    done = CliRunner().invoke(main, ["change", *map(str, maps), *more, "--model", str(model)])
    assert done.exit_code == 2
    assert reason in done.output
