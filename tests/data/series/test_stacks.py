import numpy as np
import pytest
import rasterio
from affine import Affine

from geossl import recipe as recipes
from geossl.api.pretrain.cross_video_mae import sensor_of
from geossl.data.series.batches import Clips, SeriesClips
from geossl.data.series.stacks import Clouds, day_number, find_series, open_series
from geossl.errors import BandError, GridError, InputError, MissingFileError

BANDS = ("B02", "B08")


def write(path, values, names=("B08", "B02", "B03"), crs=32631, corner=(500000, 5000000), **tags):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.asarray(values, dtype=np.uint16)
    profile = {"driver": "GTiff", "dtype": "uint16", "count": len(values), "nodata": 0, "crs": crs}
    profile |= {
        "height": values.shape[1],
        "width": values.shape[2],
        "transform": Affine(10, 0, corner[0], 0, -10, corner[1]),
    }
    with rasterio.open(path, "w", **profile) as file:
        file.write(values)
        file.descriptions = names
        file.update_tags(**({"BOA_ADD_OFFSET": "0"} | tags))


def date_pixels(number, side=20):
    """B08, B02, B03 of a date: B08 tells place and date, B02 is dark."""
    place = np.arange(side * side).reshape(side, side)
    return np.stack([1000 * (number + 1) + place, np.full((side, side), 300), np.full((side, side), 7)])


@pytest.fixture
def folder(tmp_path):
    for number, day in enumerate(("2020-06-10", "20200105", "S2_20200320_x")):
        write(tmp_path / "site" / f"{day}.tif", date_pixels(number))
    return tmp_path / "site"


def test_dates_come_in_time_and_bands_by_name(folder):
    series = open_series(folder, BANDS)
    assert [file.date for file in series.files] == ["20200105", "20200320", "20200610"]
    assert series.days.tolist() == [day_number("20200105"), day_number("20200320"), day_number("20200610")]
    assert day_number("20150101") == 0
    assert day_number("20160101") == 365
    pixels = series.read(series.geobox)
    np.testing.assert_allclose(pixels[:, 1, 0, 3], [0.2003, 0.3003, 0.1003], rtol=1e-6)
    assert (pixels[:, 0] == np.float32(0.03)).all()


def test_chips_are_the_same_from_memory_and_from_files(folder, monkeypatch):
    series = open_series(folder, BANDS)
    kept = series.chip([2, 0], 3, 5, 8)
    monkeypatch.setattr("geossl.data.series.stacks.KEPT_BYTES", 0)
    np.testing.assert_array_equal(open_series(folder, BANDS).chip([2, 0], 3, 5, 8), kept)
    assert kept.shape == (2, 2, 8, 8)
    np.testing.assert_allclose(kept[1, 1, 0, 0], 0.2 + (3 * 20 + 5) / 1e4, rtol=1e-6)


def test_bright_pixels_count_as_cloud_in_all_bands(folder):
    bright = date_pixels(3)
    bright[1, :4] = 2500
    write(folder / "20200701.tif", bright)
    pixels = open_series(folder, BANDS, Clouds("B02", 0.2)).read(open_series(folder, BANDS).geobox)
    assert np.isnan(pixels[3, :, :4]).all()
    assert np.isfinite(pixels[3, :, 4:]).all()
    assert np.isfinite(pixels[:3]).all()


def test_the_stated_offset_is_taken_off(folder, tmp_path):
    for number, day in enumerate(("2020-06-10", "20200105", "S2_20200320_x")):
        write(tmp_path / "raw" / f"{day}.tif", date_pixels(number) + 1000)
    plain, less = open_series(folder, BANDS), open_series(tmp_path / "raw", BANDS, s2_offset=-1000)
    np.testing.assert_allclose(less.read(less.geobox), plain.read(plain.geobox), atol=1e-6)
    with pytest.raises(BandError, match="s2_offset -1000 is stated, but the darkest percentile"):
        open_series(folder, BANDS, s2_offset=-1000)


def test_folders_of_series_are_found_and_labels_are_none(tmp_path, folder):
    write(tmp_path / "other" / "20200101.tif", date_pixels(0))
    write(tmp_path / "other" / "20200102.tif", date_pixels(1))
    write(tmp_path / "labels" / "20200101.tif", date_pixels(1))
    assert [series.name for series in find_series(tmp_path, BANDS)] == ["other", "site"]
    assert [series.name for series in find_series(folder, BANDS)] == ["site"]


@pytest.mark.filterwarnings("ignore:.*no number is dark")  # under a veil of clouds
def test_the_bundled_series_have_ten_bands_and_real_clouds():
    bands = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
    belgium, boadella = find_series("sample", bands, Clouds("B02", 0.2))
    assert (len(belgium.files), belgium.geobox.shape) == (28, (64, 64))
    assert (len(boadella.files), boadella.geobox.shape) == (12, (96, 96))
    valid = np.isfinite(belgium.whole[:, 0]).mean((1, 2))
    assert (valid < 0.05).sum() >= 2
    assert (valid > 0.95).sum() >= 20
    assert {file.offset for file in (*belgium.files, *boadella.files)} == {0}


def test_what_is_no_series_is_refused_by_name(tmp_path, folder):
    with pytest.raises(MissingFileError, match="expected a folder of series"):
        find_series(tmp_path / "nowhere", BANDS)
    with pytest.raises(InputError, match="holds no series"):
        find_series(empty(tmp_path), BANDS)
    with pytest.raises(BandError, match="lacks B12"):
        open_series(folder, ("B02", "B12"))
    with pytest.raises(BandError, match="found in B03, which is not among the bands: B02, B08"):
        open_series(folder, BANDS, Clouds("B03", 0.2))
    write(folder / "again_20200105.tif", date_pixels(0))
    with pytest.raises(InputError, match="have the same date; keep one raster per date"):
        open_series(folder, BANDS)
    (folder / "again_20200105.tif").rename(folder / "nodate.tif")
    with pytest.raises(InputError, match="has no date in its name"):
        open_series(folder, BANDS)
    write(folder / "nodate.tif", date_pixels(0))
    (folder / "nodate.tif").rename(folder / "20210101.tif")
    write(folder / "20210101.tif", date_pixels(0), crs=32632)
    with pytest.raises(GridError, match="mixes coordinate systems"):
        open_series(folder, BANDS)
    write(folder / "20210101.tif", date_pixels(0), corner=(900000, 5000000))
    with pytest.raises(GridError, match="20210101.tif lies elsewhere than .*; a series is of one place"):
        open_series(folder, BANDS)


def empty(tmp_path):
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def test_one_date_is_no_series(tmp_path):
    write(tmp_path / "20200101.tif", date_pixels(0))
    with pytest.raises(InputError, match="holds 1 dated rasters; a series needs at least 2"):
        open_series(tmp_path, BANDS)


def clips_of(series, **changes):
    settings = {"frames": 3, "chip_px": 8, "seed": 0, "span": 400, "max_cloudy": 0.34} | changes
    return SeriesClips(series, **settings)


def test_a_draw_is_a_function_of_its_number(folder):
    series = [open_series(folder, BANDS)]
    one, two = clips_of(series)[5], clips_of(series)[5]
    assert all(np.array_equal(one[key], two[key]) for key in one)
    assert not np.array_equal(clips_of(series)[6]["clip"], one["clip"])
    assert not np.array_equal(clips_of(series, seed=1)[5]["clip"], one["clip"])


def test_dates_stay_in_time_with_their_days_and_turn_alike(folder):
    series = open_series(folder, BANDS)
    level = dict(zip(series.days.tolist(), (2000, 3000, 1000), strict=True))  # of B08, as written
    for number in range(20):
        clip = clips_of([series], frames=2)[number]
        days = clip["days"].tolist()
        assert days[0] < days[1]
        one, two = (frame[1].numpy() * 1e4 - level[day] for frame, day in zip(clip["clip"], days, strict=True))
        np.testing.assert_allclose(one, two, atol=0.5)  # the same place, turned and flipped the same way


def test_a_clip_covers_no_more_than_its_span(folder):
    for number in range(10):
        days = clips_of([open_series(folder, BANDS)], span=100)[number]["days"].numpy()
        assert days.max() - days.min() <= 100


def test_lacking_dates_are_missing_ones_at_the_end(folder):
    clip = clips_of([open_series(folder, BANDS)], frames=5)[0]
    assert clip["clip"].shape == (5, 2, 8, 8)
    assert clip["clip"][3:].isnan().all()
    assert clip["clip"][:3].isfinite().all()
    assert clip["days"][3] == clip["days"][4] == clip["days"][2]


def test_few_dates_are_cloudy(folder):
    for number in range(4, 10):
        bright = date_pixels(number)
        if number % 2:
            bright[1, ::2] = 2500
        write(folder / f"202007{10 + number}.tif", bright)
    series = [open_series(folder, BANDS, Clouds("B02", 0.2))]
    for number in range(15):
        holes = clips_of(series, frames=4, max_cloudy=0.25)[number]["clip"][:, 0].isnan().float().mean((1, 2))
        assert (holes > 0.1).sum() <= 1
    some = [clips_of(series, frames=4, max_cloudy=0.25)[n]["clip"].isnan().any() for n in range(15)]
    assert any(some)  # on purpose


def test_a_chip_that_does_not_fit_is_refused(folder):
    with pytest.raises(GridError, match="series site is 20 x 20 px; data.chip_px=24 does not fit"):
        clips_of([open_series(folder, BANDS)], chip_px=24)


def test_statistics_come_without_holes(folder):
    recipe = recipes.load("cross_video_mae", ["encoder.bands=[B02,B08]", "encoder.statistics=data"])
    sensor = sensor_of(recipe, Clips(clips_of([open_series(folder, BANDS)]), 2, 3))
    assert sensor.mean[0] == pytest.approx(0.03, abs=1e-6)
    assert 0.2 < sensor.mean[1] < 0.3
