"""Small folders in SSL4EO-S12's layout: pixels are constant per band, date and place, so that mixing would show."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from geossl import recipe as recipes
from geossl.api.pretrain import run as pretraining
from geossl.cli import main
from geossl.data.series.ssl4eo import SeasonClips
from geossl.data.series.stacks import Clouds, day_number
from geossl.errors import GridError, InputError, MissingFileError
from geossl.models.files import load_encoder
from tests.data.conftest import write_raster

BANDS = ("B08", "B02", "B11")
DAYS = ("20200720", "20201105", "20200210", "20210401")  # not in the order of folder names below
LEVEL = {"B2": 100, "B8": 2000, "B11": 1000}


@pytest.fixture
def root(tmp_path):
    for place in range(2):
        for date, day in enumerate(DAYS):
            folder = tmp_path / f"s2a/000000{place}" / f"{day}T054109_{day}T054110_T31UFQ"
            for band, level in LEVEL.items():
                side = 24 if band == "B11" else 48
                data = np.full((1, side, side), level + 10 * date + place, np.uint16)
                if date == 3 and band == "B2":
                    data[:, :, : side // 2] = 4000  # cloud
                write_raster(folder / f"{band}.tif", data, gsd=480 / side)
    return tmp_path


def clips(root, **changes):
    settings = {"bands": BANDS, "clouds": None, "frames": 4, "chip_px": 16, "seed": 0, "span": 500, "max_cloudy": 0.25}
    return SeasonClips(root, **(settings | changes))


def test_dates_come_in_time_and_neither_bands_nor_places_are_mixed(root):
    source, places = clips(root), set()
    for number in range(12):
        clip = source[number]
        assert clip["clip"].shape == (4, 3, 16, 16)
        order = [2, 0, 1, 3]
        assert clip["days"].tolist() == [day_number(DAYS[i]) for i in order]
        numbers = (clip["clip"][:, [0, 2], 0, 0] * 10000).round()
        place = int(numbers[0, 0]) % 10
        places.add(place)
        assert numbers.tolist() == [[2000 + 10 * i + place, 1000 + 10 * i + place] for i in order]
    assert places == {0, 1}


def test_clouds_are_missing_and_fewer_frames_are_some_of_the_dates(root):
    cloudy = {"clouds": Clouds("B02", 0.2), "chip_px": 40}
    clear = clips(root, **cloudy, frames=3, max_cloudy=0.0)[1]
    assert clear["days"].tolist() == sorted(day_number(day) for day in DAYS[:3])  # the cloudy one is left out
    holes = [clips(root, **cloudy, max_cloudy=0.5)[n]["clip"][:, 0].isnan().float().mean((1, 2)) for n in range(6)]
    assert {tuple(hole[:3].tolist()) for hole in holes} == {(0.0, 0.0, 0.0)}
    assert any(0.3 < hole[3] < 0.7 for hole in holes)
    short = clips(root, span=200)[0]["days"].numpy()
    assert short.max() - short.min() <= 200


def test_draws_depend_on_seed_and_number_only(root):
    one, two = clips(root, seed=1), clips(root, seed=1)
    for n in (5, 2):
        assert all(torch.equal(one[n][key], two[n][key]) for key in ("clip", "days"))
    assert len({float(clips(root, seed=s, frames=2)[0]["days"].sum()) for s in range(12)}) > 1


def test_what_does_not_fit_is_said(root, tmp_path):
    with pytest.raises(GridError, match="places of .* are 48 px wide; data.chip_px=64 does not fit"):
        clips(root, chip_px=64)
    with pytest.raises(MissingFileError, match="is not an SSL4EO-S12 folder; it needs s2a/<place>/<scene>/"):
        clips(tmp_path / "nowhere")
    for path in list((root / "s2a/0000000").iterdir())[1:]:
        path.rename(root / "s2a/0000001" / f"{path.name}x")
    with pytest.raises(InputError, match="holds 1 scenes; a series needs at least 2 dates"):
        clips(root)
    with pytest.raises(InputError, match="data.s2_offset=-1000: SSL4EO-S12 names its bands and has no offset"):
        pretraining.prepare(recipes.load("cross_video_mae/s12", [f"data.source={root}", "data.s2_offset=-1000"]))


def test_the_seasons_of_a_folder_pretrain_both_branches(root, tmp_path):
    settings = ["encoder.bands=[B02,B08,B11]", "encoder.dim=16", "encoder.depth=1", "encoder.heads=2"]
    settings += ["encoder.window_px=16", "encoder.halo_px=0", "objective.decoder_dim=32", "objective.decoder_depth=1"]
    settings += ["data.chip_px=16", "data.batch_size=4", "data.workers=0", "train.max_steps=2", "train.devices=1"]
    settings += ["train.precision=32-true", f"data.source={root}", f"out={tmp_path / 'run'}"]
    result = CliRunner().invoke(main, ["pretrain", "cross_video_mae/s12", *settings])
    assert result.exit_code == 0, result.output
    encoder = load_encoder(tmp_path / "run" / "encoder.safetensors")
    assert encoder.spec.sensors["s2"].mean[1] == pytest.approx(0.2015, abs=1e-3)
