"""Going on: from weights, and with more steps."""

import csv
import json
import warnings

import pytest
import torch

import geossl
from geossl import recipe
from geossl.api.pretrain.initial import started
from geossl.api.pretrain.run import scores
from geossl.errors import InputError, Note, RecipeError, WeightsError
from geossl.methods.base import OptimConfig
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.encoders.stacked import choose_bands
from geossl.models.encoders.vit import ViT, vit_spec
from geossl.models.files import save_encoder
from geossl.models.spec import ImageGeometry, Provenance
from geossl.recipe.sections import FromWeights, Train
from geossl.sensors import S2
from geossl.training.optim import lengthened, optim_config

SMALL = ["data.batch_size=2", "data.chip_px=32", "data.crop_px=null", "train.log_every=1", "probe.every_steps=0"]
CROMA = [*SMALL, "objective.decoder_dim=64", "encoder.window_px=32", "encoder.halo_px=8"]
MAE = [
    *SMALL,
    "encoder.window_px=32",
    "encoder.halo_px=8",
    "objective.decoder_dim=32",
    "data.holdout=0",
    "encoder.statistics=published",
]


def run(name, keys, out, *overrides):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        return geossl.pretrain(recipe.load(name, [*keys, *overrides, f"out={out}"]))


def rates(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return [float(row["lr"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_encoder(
        path, CROMAEncoder(croma_spec("tiny", provenance=Provenance(name="w", source="made up", licence="CC0-1.0"))), {}
    )
    return path


@pytest.fixture(scope="module")
def going_on(weights, tmp_path_factory):
    more = [
        "data.chip_px=96",
        "data.holdout=0.5",
        f"encoder.init={weights}",
        "encoder.freeze_blocks=1",
        "encoder.init_lr=0.5",
        "train.max_steps=2",
    ]
    return run("croma", CROMA, tmp_path_factory.mktemp("on") / "run", *more)


def test_weights_go_on_with_their_statistics_and_frozen_blocks_stay(weights, going_on):
    before, after = (geossl.load_encoder(path) for path in (weights, going_on / "encoder.safetensors"))
    assert after.spec.sensors == before.spec.sensors  # although the recipe says statistics: data
    assert after.spec.window_px == 32
    assert after.spec.licence == "CC0-1.0; see the data's licence"
    assert "made up" in after.spec.source
    one, two = before.state_dict(), after.state_dict()
    still = {key for key in one if torch.equal(one[key], two[key]) and not key.startswith("ranges")}
    assert {key.split(".")[0] + "." + key.split(".")[1] for key in still} <= {
        *("radar.embed", "optical.embed", "radar.blocks", "optical.blocks")
    }
    assert {"radar.embed.weight", "optical.embed.weight"} <= still
    assert all(".blocks.0." in key or ".embed." in key for key in still)
    moved = (
        two["optical.blocks.1.feed_forward.expand.weight"] - one["optical.blocks.1.feed_forward.expand.weight"]
    ).abs()
    assert 0 < moved.max() < 2e-3


def test_held_out_ground_is_probed_before_and_after(going_on):
    found = json.loads((going_on / "holdout.json").read_text())
    assert found["classes"] >= 3
    assert all(0 < found[when][kind] < 1 for when in ("before", "after") for kind in ("knn", "linear"))
    first, last = (found[when]["knn"] for when in ("before", "after"))
    assert scores(going_on).startswith(f"knn {first:.3f} -> {last:.3f}, linear ")


def fresh_vit(size="nano", patch_px=8, sensors=None, position="alibi"):
    geometry = ImageGeometry(window_px=32, margin_px=8)
    return ViT(vit_spec(size, sensors or {"s2": S2}, geometry, patch_px=patch_px, position=position))


@pytest.fixture(scope="module")
def vit_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("vit") / "vit.safetensors"
    save_encoder(path, fresh_vit(), {})
    return path


def test_mae_starts_from_its_own_file(vit_file, tmp_path):
    folder = run("mae", MAE, tmp_path / "b", "train.max_steps=1", f"encoder.init={vit_file}")
    before, after = (geossl.load_encoder(path).state_dict() for path in (vit_file, folder / "encoder.safetensors"))
    assert 0 < (before["embed.weight"] - after["embed.weight"]).abs().max() < 1e-3  # a quarter of 1e-3, risen in 1 step


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": "tiny"}, "has 128 numbers per patch; the recipe says 192: change encoder.size"),
        ({"patch_px": 4}, "has 8 px per patch; the recipe says 4: set encoder.patch_px"),
        ({"sensors": {"s2": choose_bands("s2", ("B02", "B03"))}}, "the recipe says B02, B03: set encoder.sensors"),
        ({"position": "sincos"}, "has alibi as positions; the recipe says sincos: set encoder.position"),
    ],
)
def test_weights_that_do_not_fit_the_recipe_are_one_line(vit_file, change, words):
    with pytest.raises(WeightsError, match=words):
        started(FromWeights(init=str(vit_file)), fresh_vit(**change))


def test_other_architectures_and_too_many_frozen_blocks_are_one_line(weights, vit_file):
    with pytest.raises(WeightsError, match="is of architecture croma; this recipe trains vit"):
        started(FromWeights(init=str(weights)), fresh_vit())
    with pytest.raises(WeightsError, match="encoder.freeze_blocks=7 is more than the 6 blocks"):
        started(FromWeights(init=str(vit_file), freeze_blocks=7), fresh_vit())


def test_fresh_weights_are_not_frozen():
    with pytest.raises(RecipeError, match=r"^override 'encoder.freeze_blocks=2': freeze_blocks=2 would freeze fresh"):
        recipe.load("croma", ["encoder.freeze_blocks=2"])


def test_weights_that_are_given_have_a_rate_and_a_warm_up_of_their_own(weights):
    train = Train(max_steps=100, lr=1.0, warmup_share=0.1)
    optim = optim_config(train, FromWeights(init=str(weights), init_lr=0.5, init_warmup=0.2))
    assert [optim.rate(step) for step in (4, 9)] == [0.5, 1.0]
    assert [optim.encoder_rate(step) for step in (4, 9)] == [0.125, 0.25]
    assert optim.encoder_rate(60) == pytest.approx(0.5 * optim.rate(60))
    assert not optim_config(train, FromWeights()).is_gentle
    fresh, given = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    module = torch.nn.ModuleDict({"fresh": fresh, "encoder": given})
    module.encoder = given
    groups = optim.build(module).param_groups
    assert [group["params"] for group in groups] == [[fresh.weight], [fresh.bias], [given.weight], [given.bias]]


def test_a_longer_schedule_is_joined_to_the_last_rate():
    train = Train(max_steps=300, lr=1.0)
    whole = optim_config(train)
    optim = lengthened(whole, train, [[100, 100]])
    assert optim.rate(50) == pytest.approx(0.5)  # as in a run of 100 steps
    assert optim.rise == 20
    assert optim.rate(99) < 0.001
    assert optim.rate(109) == pytest.approx(0.5 * whole.rate(109))
    assert optim.rate(119) == whole.rate(119)
    twice = lengthened(whole, train, [[100, 100], [150, 200]])
    train = Train(max_steps=200, lr=1.0)
    assert twice.rate(149) == lengthened(optim_config(train), train, [[100, 100]]).rate(149)
    assert lengthened(whole, train, []) is whole


def test_a_finished_run_is_lengthened_and_never_shortened(tmp_path):
    folder = run("mae", MAE, tmp_path / "run", "train.max_steps=3", "train.warmup_share=0")
    with pytest.warns(Note, match="resumes at step 3 and has 8 steps now, not 3: the learning rate goes from 0 to"):
        geossl.pretrain(
            recipe.load("mae", [*MAE, "train.warmup_share=0", f"out={folder}", "train.max_steps=8", "resume=true"])
        )
    found = rates(folder)
    assert len(found) == 8
    assert found[2] == 0
    assert found[3] > 0.4e-3  # a tenth of five steps: at once
    assert json.loads((folder / "lengthened.json").read_text()) == [[3, 3]]
    with pytest.raises(InputError, match="can be given more steps, not fewer"):
        run("mae", MAE, folder, "train.warmup_share=0", "train.max_steps=4", "resume=true")


def test_a_constant_rate_stays_constant():
    optim = OptimConfig("adam", 1e-3, (0.9, 0.999), 0.0, "constant", 0, 10)
    train = Train(max_steps=20, lr=1e-3, schedule="constant")
    longer = lengthened(optim_config(train), train, [[10, 10]])
    assert [longer.rate(step) for step in (9, 10, 15)] == [1.0, 1.0, 1.0]
    assert optim.rate(5) == 1.0
