import shutil

import numpy as np
import pytest
import torch

from geossl.data.sentinel.aligned import SceneFolder
from geossl.data.sentinel.batches import SentinelChips
from geossl.data.sentinel.ssl4eo import SSL4EO
from geossl.errors import InputError, RunError
from geossl.sensors import S2_BANDS
from tests.data.conftest import radar, write_raster


@pytest.fixture
def ssl4eo(tmp_path):
    for place in ("0000001", "0000002"):
        for season in range(4):
            day = f"20200{2 * season + 1}05T0541"
            satellite = "S1B" if season == 0 else "S1A"  # by name, the first season would come last
            for band, data in zip(("VV", "VH"), radar((64, 64), season), strict=True):
                write_raster(tmp_path / f"s1/{place}/{satellite}_IW_GRDH_1SDV_{day}09/{band}.tif", data[None])
            for i, band in enumerate(S2_BANDS):
                step = {"B01": 6, "B09": 6}.get(band, 1 if band in ("B02", "B03", "B04", "B08") else 2)
                side = -(-64 // step)
                data = np.full((1, side, side), 1000 * (i + 1) + season, dtype=np.uint16)
                name = f"B{band[1:].lstrip('0')}"
                write_raster(tmp_path / f"s2a/{place}/{day}21_{day}21_T31UFQ/{name}.tif", data, gsd=10.0 * step)
    return tmp_path


def test_ssl4eo_pairs_seasons_and_brings_bands_to_ten_metres(ssl4eo):
    source = SSL4EO(ssl4eo, (32, 32))
    seasons = set()
    for number in range(40):
        chip = source.read(number, 0)
        season = round(float(chip["s2"][0, 0, 0]) * 10000) - 1000
        seasons.add(season)
        expected = (1000 * torch.arange(1, 13) + season) / 10000
        torch.testing.assert_close(chip["s2"].mean((1, 2)), expected, atol=1e-6, rtol=0)
        scene = radar((64, 64), season)
        assert np.isin(chip["s1"].numpy(), scene).all()
    assert seasons == {0, 1, 2, 3}


def test_ssl4eo_feeds_the_loader(ssl4eo):
    data = SentinelChips(ssl4eo, 24, 4, 2, crop_px=(16, 48))
    assert [b["s1"].shape for b in data.train_dataloader()] == [(4, 2, 24, 24)] * 2
    assert data.describe()["layout"] == "SSL4EO-S12"
    with pytest.raises(InputError, match="holdout"):
        SentinelChips(ssl4eo, 24, 4, 2, holdout=0.5)
    for idle in ({"s2_offset": -1000}, {"s2_bands": S2_BANDS}):
        with pytest.raises(
            InputError, match=f"data.{next(iter(idle))}.*: SSL4EO-S12 names its bands and has no offset"
        ):
            SentinelChips(SceneFolder(ssl4eo, **idle), 24, 4, 2)


def test_ssl4eo_refuses_unpaired_places(ssl4eo):
    shutil.rmtree(ssl4eo / "s1/0000001/S1B_IW_GRDH_1SDV_20200105T054109")
    with pytest.raises(InputError, match="place 0000001 has 3 Sentinel-1 and 4 Sentinel-2 scenes"):
        SSL4EO(ssl4eo, (32, 32))


def test_ssl4eo_draws_depend_on_seed_and_number_only(ssl4eo):
    first = [SSL4EO(ssl4eo, (20, 40), seed=1).read(n, 0) for n in range(4)]
    again = [SSL4EO(ssl4eo, (20, 40), seed=1).read(n, 0) for n in reversed(range(4))][::-1]
    for a, b in zip(first, again, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)
    other = SSL4EO(ssl4eo, (20, 40), seed=2).read(0, 0)
    assert other["s1"].shape != first[0]["s1"].shape or not torch.equal(other["s1"], first[0]["s1"])


def test_ssl4eo_says_what_is_wrong(ssl4eo):
    with pytest.raises(RunError, match="is 64 px wide, smaller than a crop of 80 px"):
        SSL4EO(ssl4eo, (80, 80)).read(0, 0)
    for path in ssl4eo.glob("s2a/*/*/B3.tif"):
        path.write_text("broken")
    with pytest.raises(RunError, match=r"B3.tif cannot be read"):
        SSL4EO(ssl4eo, (32, 32)).read(0, 0)
    (ssl4eo / "s1/0000001/spring").mkdir()
    with pytest.raises(InputError, match="spring has no date in its name"):
        SSL4EO(ssl4eo, (32, 32))
