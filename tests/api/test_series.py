import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from click.testing import CliRunner

import geossl
from geossl import cli
from geossl.data.series.stacks import SAMPLE, open_series
from geossl.errors import InputError, WeightsError
from geossl.inference import series as blockwise
from geossl.models.encoders.series_vit import SeriesViT, series_spec
from geossl.models.files import save_encoder
from geossl.models.spec import ImageGeometry, Provenance
from geossl.sensors import SensorSpec

BANDS = ("B04", "B08")
S2 = SensorSpec(BANDS, "reflectance", "L2A", (0.08, 0.3), (0.05, 0.1))


def encoder(name="tiny_series", tubelet=1, window_px=16, margin_px=4):
    torch.manual_seed(0)
    shape = {"dim": 8, "depth": 1, "heads": 2, "patch_px": 4, "tubelet": tubelet}
    geometry = ImageGeometry(window_px=window_px, margin_px=margin_px)
    return SeriesViT(series_spec({"s2": S2}, geometry, provenance=Provenance(name=name), **shape)).eval()


@pytest.fixture
def stack(tmp_path):
    """Six dates of the Belgian series, in UTM 31N, its corner 5 m off the 10 m grid's tens."""
    folder = tmp_path / "belgium"
    folder.mkdir()
    for path in sorted((SAMPLE / "belgium").glob("*.tif"))[4:22:3]:
        shutil.copy(path, folder)
    return folder


def embedded(source, out, **settings):
    """The map of means over dates, opened; without a picture."""
    return geossl.open(geossl.series.embed(source, encoder(), out=out, picture=False, **{"dates": "mean", **settings}))


def cropped(folder, out, top, left, size):
    """A part of a stack, on the same pixels."""
    out.mkdir()
    for path in folder.glob("*.tif"):
        with rasterio.open(path) as source:
            window = rasterio.windows.Window(left, top, size, size)
            profile = source.profile | {"height": size, "width": size, "transform": source.window_transform(window)}
            with rasterio.open(out / path.name, "w", **profile) as file:
                file.write(source.read(window=window))
                file.descriptions = source.descriptions
                file.update_tags(**source.tags())
    return out


def test_the_map_lies_on_the_lattice_of_all_maps(stack, tmp_path):
    found = geossl.open(geossl.series.embed(stack, encoder(), out=tmp_path / "map.tif"))  # a mean per season
    transform = found.rio.transform()
    assert found.rio.crs.to_epsg() == 32631
    assert (transform.a, transform.e) == (40, -40)
    assert transform.c % 80 == transform.f % 80 == 0  # cells of two patches, anchored at the CRS origin
    left, _, _, top = found.rio.bounds()
    series = open_series(stack, BANDS).geobox.extent.boundingbox
    assert left <= series.left < left + 80
    assert top - 80 < series.top <= top
    assert found.sizes["embedding"] == 4 * 8
    assert (tmp_path / "map.png").is_file()


def test_a_vector_is_the_encoders_own_for_its_window(stack, tmp_path):
    found = embedded(stack, tmp_path / "map.tif")
    series = open_series(stack, BANDS)
    row, column = 6, 8  # of patches; cell (3, 4), whose window begins one patch before it
    corner = found.odc.geobox[row - 1 : row + 3, column - 1 : column + 3].zoom_out(1 / 4)
    tokens = encoder().tokens(torch.from_numpy(series.read(corner))[None], torch.tensor(series.days[None]).float())
    ours = found[:, row : row + 2, column : column + 2].values
    np.testing.assert_array_equal(ours, tokens[0, 1:3, 1:3].permute(2, 0, 1).detach().numpy())


def test_dates_are_joined_as_asked_and_say_so(stack, tmp_path):
    series, row, column = open_series(stack, BANDS), 6, 8
    days = torch.tensor(series.days[None]).float()
    for dates, count in (("mean", 8), ("season", 32), ("each", 8 * len(series.files))):
        out = tmp_path / f"{dates}.tif"
        found = embedded(stack, out, dates=dates)
        corner = found.odc.geobox[row - 1 : row + 3, column - 1 : column + 3].zoom_out(1 / 4)
        tokens = encoder().tokens(torch.from_numpy(series.read(corner))[None], days, dates)
        ours = found[:, row : row + 2, column : column + 2].values
        np.testing.assert_array_equal(ours, tokens[0, 1:3, 1:3].permute(2, 0, 1).detach().numpy())
        assert found.sizes["embedding"] == count
        with rasterio.open(out) as file:
            assert file.tags()["GEOSSL_JOINED"] == dates
            last = {"mean": "e007", "season": "son_e007", "each": f"{series.files[-1].date}_e007"}[dates]
            assert file.descriptions[-1] == last
    with pytest.raises(InputError, match="dates.*'all'.*one of season, mean, each"):
        geossl.series.embed(stack, encoder(), out=tmp_path / "x.tif", dates="all")


def test_the_region_does_not_matter(stack, tmp_path):
    whole = embedded(stack, tmp_path / "whole.tif")
    part = embedded(cropped(stack, tmp_path / "p", 8, 12, 44), tmp_path / "part.tif")
    both = whole.sel(x=part.x, y=part.y)
    same = (part == both).all("embedding").values
    assert same[2:-2, 2:-2].all()  # the rim's windows reach beyond the smaller stack
    assert same[2:-2, 2:-2].size > 30


def moved(folder, out, metres):
    """The same pixels farther east."""
    out.mkdir()
    for path in folder.glob("*.tif"):
        shutil.copy(path, out)
        with rasterio.open(out / path.name, "r+") as file:
            file.transform = rasterio.Affine.translation(metres, 0) @ file.transform
    return out


@pytest.mark.parametrize(("window_px", "margin_px", "is_seamless"), [(20, 8, True), (16, 4, False)])
def test_a_map_of_middle_patches_has_no_seams(stack, tmp_path, window_px, margin_px, is_seamless):
    """Where a window keeps one patch, a scene that moves by a patch moves in the map and nothing else changes."""
    shape = {"window_px": window_px, "margin_px": margin_px}
    parts = []
    for name, folder in (("here", stack), ("there", moved(stack, tmp_path / "moved", 40))):
        out = geossl.series.embed(folder, encoder(**shape), out=tmp_path / f"{name}.tif", picture=False)
        values = geossl.open(out).load()
        parts.append(values.where(values.notnull().all("embedding"), drop=True).values)
    assert (parts[0].shape == parts[1].shape and np.array_equal(*parts)) is is_seamless


def test_blocks_that_are_read_at_once_do_not_matter(stack, tmp_path, monkeypatch):
    whole = embedded(stack, tmp_path / "whole.tif").values
    monkeypatch.setattr(blockwise, "READ_PX", 24)  # three cells; 64 px lie over four or five such blocks
    told = []
    parts = embedded(stack, tmp_path / "parts.tif", progress=lambda *count: told.append(count[:2])).values
    assert np.array_equal(whole, parts, equal_nan=True)
    assert told == [(i + 1, len(told)) for i in range(len(told))]
    assert len(told) >= 9


def test_a_date_without_data_influences_nothing(stack, tmp_path):
    one = embedded(stack, tmp_path / "one.tif").values
    path = sorted(stack.glob("*.tif"))[2]
    with rasterio.open(path) as source:
        profile, names, tags = source.profile, source.descriptions, source.tags()
    with rasterio.open(stack / "20180101.tif", "w", **profile) as file:
        file.write(np.zeros((profile["count"], 64, 64), np.uint16))
        file.descriptions = names
        file.update_tags(**tags)
    two = embedded(stack, tmp_path / "two.tif").values
    np.testing.assert_allclose(two, one, atol=1e-5)


def test_days_narrow_the_series(stack, tmp_path):
    days = [file.date for file in open_series(stack, BANDS).files]
    start = f"{days[1][:4]}-{days[1][4:6]}-{days[1][6:]}"
    out = geossl.series.embed(stack, encoder(), out=tmp_path / "map.tif", start=start, picture=False)
    with rasterio.open(out) as file:
        assert days[0] not in file.tags()["GEOSSL_DATES"]
        assert days[1] in file.tags()["GEOSSL_DATES"]
    with pytest.raises(InputError, match="no date from 2031-01-01 to the last; the series has"):
        geossl.series.embed(stack, encoder(), out=tmp_path / "x.tif", start="2031-01-01")
    with pytest.raises(
        InputError, match="end='2030-01' is not a day such as"
    ):  # its first day would leave out the rest
        geossl.series.embed(stack, encoder(), out=tmp_path / "x.tif", end="2030-01")
    with pytest.raises(InputError, match="end='soon' is not a day such as"):
        geossl.series.embed(stack, encoder(), out=tmp_path / "x.tif", end="soon")


def test_a_series_of_clouds_alone_makes_no_map(tmp_path):
    with pytest.raises(InputError, match="belgium has no valid patch on any date"):
        embedded(SAMPLE / "belgium", tmp_path / "map.tif", cloud_band="B04", cloud_above=1e-6)
    assert list(tmp_path.iterdir()) == []


def test_clouds_may_be_left_out(tmp_path):
    plain, clear = (embedded(SAMPLE / "belgium", tmp_path / f"{band}.tif", cloud_band=band) for band in (None, "B04"))
    assert np.nanmax(np.abs(plain.values - clear.values)) > 0.01


def test_a_stack_in_degrees_is_brought_to_its_utm_zone(tmp_path):
    found = embedded(SAMPLE / "boadella", tmp_path / "map.tif")
    assert found.rio.crs.to_epsg() == 32631
    assert found.rio.transform().a == 40
    centre = open_series(SAMPLE / "boadella", BANDS).geobox.extent.to_crs("EPSG:32631").centroid
    assert np.isfinite(found.sel(x=centre.coords[0][0], y=centre.coords[0][1], method="nearest").values).all()


def test_what_cannot_be_embedded_is_refused_and_nothing_written(stack, tmp_path):
    with pytest.raises(InputError, match=r"must end in \.tif"):
        geossl.series.embed(stack, encoder(), out=tmp_path / "map.zarr")
    with pytest.raises(InputError, match="create it"):
        geossl.series.embed(stack, encoder(), out=tmp_path / "no" / "map.tif")
    with pytest.raises(WeightsError, match="'video' .* is of s2 in tubelets of 2; maps need s2 and 1"):
        geossl.series.embed(stack, encoder(tubelet=2, name="video"), out=tmp_path / "map.tif")
    (tmp_path / "map.tif").touch()
    with pytest.raises(InputError, match="exists; choose another name, or overwrite=True"):
        geossl.series.embed(stack, encoder(), out=tmp_path / "map.tif")
    assert (tmp_path / "map.tif").stat().st_size == 0


def test_the_command_does_the_same_and_answers_mistakes_in_one_line(stack, tmp_path):
    save_encoder(tmp_path / "encoder.safetensors", encoder(), {})
    options = [
        "--encoder",
        str(tmp_path / "encoder.safetensors"),
        "--out",
        str(tmp_path / "map.tif"),
        "--dates",
        "mean",
    ]
    done = CliRunner().invoke(cli.main, ["series", "embed", str(stack), *options])
    assert done.exit_code == 0, done.output
    expected = embedded(stack, tmp_path / "again.tif")
    np.testing.assert_array_equal(geossl.open(tmp_path / "map.tif").values, expected.values)
    for arguments, message in (
        (["nowhere", *options[:2]], "folder 'nowhere' does not exist"),
        ([str(stack), "--encoder", "croma_bass"], "unknown encoder 'croma_bass'; did you mean 'croma_base'?"),
        ([str(stack), *options[:2], "--dates", "all"], "'all' is not one of 'season', 'mean', 'each'"),
        ([str(stack), *options], "exists; choose another name, or --overwrite"),
    ):
        done = CliRunner().invoke(cli.main, ["series", "embed", *arguments])
        assert done.exit_code == 2
        assert message in done.output
        assert len(done.output.strip().splitlines()) == 1
    assert not Path("series.tif").exists()
