import numpy as np
import pytest
import torch
from PIL import Image

import geossl
from geossl import recipe
from geossl.api.pretrain.cross_video_mae import given_image_branch
from geossl.errors import RecipeError, WeightsError
from geossl.models.encoders.series_vit import SeriesViT
from geossl.models.encoders.vit import ViT

TINY = {
    "train__max_steps": 2,
    "data__batch_size": 4,
    "encoder__dim": 16,
    "encoder__heads": 2,
    "encoder__depth": 1,
    "objective__decoder_dim": 32,
    "objective__decoder_depth": 1,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "series"
    return geossl.pretrain("cross_video_mae", **TINY, encoder__statistics="published", out=str(out))


def test_a_run_on_the_bundled_series_leaves_both_branches(run):
    video, image = (geossl.load_encoder(run / f"{name}.safetensors") for name in ("encoder", "image_encoder"))
    assert isinstance(video, SeriesViT)
    assert isinstance(image, ViT)
    assert video.spec.sensors == image.spec.sensors
    x = torch.rand(1, 10, 16, 16) * 0.3
    assert video.tokens(x[None], torch.tensor([[100.0]])).shape == image.tokens({"s2": x}).shape == (1, 4, 4, 16)
    assert (run / "metrics.csv").read_text().splitlines()[0].count("cross_") == 2


def test_a_given_image_branch_is_taught_from_and_not_changed(run, tmp_path):
    weights = run / "image_encoder.safetensors"
    again = geossl.pretrain(
        "cross_video_mae",
        **TINY,
        encoder__statistics="published",
        encoder__image_weights=str(weights),
        objective__train_image="frozen",
        out=str(tmp_path / "again"),
    )
    before, after = (geossl.load_encoder(path).state_dict() for path in (weights, again / "image_encoder.safetensors"))
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())


def test_an_image_branch_that_does_not_fit_is_refused(run):
    video = geossl.load_encoder(run / "encoder.safetensors")
    with pytest.raises(WeightsError, match="is series_vit; it must be a plain vit"):
        given_image_branch(str(run / "encoder.safetensors"), video)
    other = SeriesViT(
        type(video.spec).from_dict(video.spec.to_dict() | {"patch_px": 8, "window_px": 16, "margin_px": 0})
    )
    with pytest.raises(WeightsError, match="has patches of 4 px; the recipe says 8 px"):
        given_image_branch(str(run / "image_encoder.safetensors"), other)


def test_ordinary_video_is_learned_from_folders_of_frames(tmp_path):
    rng = np.random.default_rng(0)
    for clip in range(3):
        folder = tmp_path / "videos" / f"{clip}"
        folder.mkdir(parents=True)
        for number in range(6):
            Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    out = geossl.pretrain(
        "cross_video_mae/base",
        **TINY,
        encoder__patch_px=4,
        data__source=str(tmp_path / "videos"),
        data__frames=4,
        data__span=4,
        data__chip_px=16,
        data__workers=0,
        train__devices=1,
        train__precision="32-true",
        out=str(tmp_path / "run"),
    )
    encoder = geossl.load_encoder(out / "encoder.safetensors")
    assert encoder.tubelet == 2
    assert encoder.pooled(torch.rand(2, 4, 3, 16, 16), torch.zeros(2, 4)).shape == (2, 16)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.chip_px=18", "data.chip_px=18 must be a multiple of the 4-px patch"),
        ("data.chip_px=4", "less than two patches"),
        ("encoder.halo_px=12", "encoder.halo_px=12 leaves nothing of a window of 20 px"),
        ("encoder.tubelet=3", "data.frames=8 must be a multiple of encoder.tubelet=3"),
        ("encoder.dim=90", "must be a multiple of 4 and of encoder.heads=4"),
        ("objective.decoder_dim=48", "must be a multiple of 32"),
        ("objective.frames_per_clip=8", "objective.frames_per_clip=8 leaves nothing of 8 slots"),
        ("objective.train_image=frozen", "needs encoder.image_weights"),
        ("encoder.sensor=rgb", "need encoder.sensor=s2"),
        ("encoder.bands=[B02, B10]", "must be some of B01, B02"),
        ("data.cloud_band=B01", "data.cloud_band=B01 is not among encoder.bands"),
        ("objective.mask_kind=tubes", "objective.mask_kind = 'tubes' is wrong"),
        ("objective.cross_fram=1", "did you mean 'cross_frame'?"),
    ],
)
def test_mistakes_in_a_recipe_are_told(override, message):
    with pytest.raises(RecipeError) as error:
        recipe.load("cross_video_mae", [override])
    assert message in str(error.value)


def test_an_objective_without_terms_is_refused():
    terms = ("reconstruct_video", "reconstruct_image", "intra_video", "intra_frame", "cross_video", "cross_frame")
    with pytest.raises(RecipeError, match="nothing would be learned"):
        recipe.load("cross_video_mae", [f"objective.{term}=0" for term in terms])
