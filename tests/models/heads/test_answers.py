import json

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor

from geossl.api.finetune.holdout import fit_reference
from geossl.evaluation.heads import FITS, Samples, fit_head, predict
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.files import load_encoder, save_encoder
from geossl.models.heads.answers import Amount, Answer, interpolated
from geossl.models.heads.classifiers import HEADS, LinearHead
from geossl.models.heads.segmenter import build, cells_of, with_decoder

TABLE = {"at": [0.0, 10.0], "half": [1.0, 3.0]}


def samples(n=300):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 6)).astype(np.float32)
    return Samples(x, 3 * x[:, 0] + x[:, 1] ** 2 + 50 + 0.1 * rng.normal(size=n))


def encoder():
    torch.manual_seed(0)
    return CROMAEncoder(croma_spec("tiny", window_px=64, margin_px=16, dim=32, depth=2, heads=8)).eval()


def images(side=32):
    rng = torch.Generator().manual_seed(0)
    return {"s2": 0.3 * torch.rand(2, 12, side, side, generator=rng)}


@pytest.mark.parametrize("kind", sorted(FITS))
def test_stored_regressors_give_scikit_learns_amounts_and_are_rebuilt_from_arguments(kind):
    train = samples()
    head = FITS[kind](train, 0, 0)
    again = HEADS[head.kind](**json.loads(json.dumps(head.arguments)))
    again.load_state_dict(head.state_dict())
    found = predict(again, train.x)
    assert found.shape == (300, 1)
    assert np.corrcoef(found[:, 0], train.y)[0, 1] > 0.9
    if kind == "linear":
        z = (train.x - train.x.mean(0)) / train.x.std(0)
        np.testing.assert_allclose(found[:, 0], Ridge(1.0).fit(z, train.y).predict(z), rtol=1e-4)
    if kind == "forest":
        model = RandomForestRegressor(200, max_features=1 / 3, min_samples_leaf=2, random_state=0).fit(train.x, train.y)
        np.testing.assert_allclose(found[:, 0], model.predict(train.x), rtol=1e-5)
    if kind == "knn":
        other = samples(400).x[300:]
        model = KNeighborsRegressor(20, metric="cosine", weights="distance").fit(train.x, train.y)
        np.testing.assert_allclose(predict(head, other)[:, 0], model.predict(other), rtol=1e-3)


def test_the_penalty_of_a_ridge_is_chosen_on_validation():
    train = samples()
    noise = Samples(train.x, np.random.default_rng(1).normal(size=300))
    assert fit_head("linear", train, train, 0)[1]["c"] > fit_head("linear", noise, samples(), 0)[1]["c"]


def test_widths_are_linear_between_knots_and_constant_beyond():
    x = torch.tensor([-5.0, 0.0, 2.5, 10.0, 99.0, torch.nan])
    at, half = torch.tensor([0.0, 10.0]), torch.tensor([1.0, 3.0])
    expected = torch.tensor([1.0, 1.0, 1.5, 3.0, 3.0, torch.nan])
    torch.testing.assert_close(interpolated(x, at, half), expected, equal_nan=True)
    layers = Amount("b", intervals={"s2": TABLE}).layers(torch.tensor([2.5]), "s2")
    torch.testing.assert_close(layers, torch.tensor([[2.5], [1.0], [4.0]]))


@torch.no_grad()
def test_a_models_layers_are_value_interval_and_dissimilarity_and_survive_a_file(tmp_path):
    made = encoder()
    x = made.tokens(images()).flatten(0, 2).numpy()
    head = FITS["linear"](Samples(x, x[:, 0].astype(float)), 0, 0)
    reference = fit_reference(x, np.arange(len(x)) % 5)
    amount = Amount("b", "t/ha", intervals={"s2": TABLE})
    model = build(made, {"s2": head}, ["s2"], (), (), "", amount, {"s2": reference})
    save_encoder(tmp_path / "m.safetensors", model, {})
    again = load_encoder(tmp_path / "m.safetensors")
    found = again.tokens(images())
    assert found.shape == (2, 4, 4, 4)
    assert cells_of(again.spec) == 1
    value, low, high, unlike = found.flatten(0, 2).T
    np.testing.assert_allclose(value, predict(head, x)[:, 0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close((low + high) / 2, value)
    assert (unlike < 1).all()  # they are the training vectors themselves
    assert again.amount == amount


@torch.no_grad()
def test_a_decoder_gives_amounts_per_pixel_in_their_unit():
    amount = Amount("b", mean=100.0, std=10.0, intervals={"any": TABLE})
    model = with_decoder(encoder(), "unet", ["s2"], (), amount=amount)
    tokens = model.encoder.tokens(images())
    found = model.tokens(images())
    assert found.shape == (2, 4, 4, 3 * 64)
    expected = 100 + 10 * model.logits(tokens, images())[0, 0, :8, :8]
    torch.testing.assert_close(found[0, 0, 0, :64].reshape(8, 8), expected)


@torch.no_grad()
def test_models_without_layers_of_trust_stay_readable(tmp_path):
    """Files written before amounts and references: their spec names neither."""
    head = LinearHead(32, 3)
    model = build(encoder(), {"s2": head}, ["s2"], ("a", "b", "c"), ("#000000",) * 3, "")
    assert not {"amount", "references"} & set(model.spec.arguments)
    assert not [name for name in model.state_dict() if name.startswith("references")]
    save_encoder(tmp_path / "m.safetensors", model, {})
    again = load_encoder(tmp_path / "m.safetensors")
    assert again.tokens(images()).shape == (2, 4, 4, 2)
    assert again.answer("s2").names == ("class", "confidence")


def test_an_answer_does_not_depend_on_the_other_rows():
    x = torch.from_numpy(samples().x)
    head = FITS["mlp"](samples(), 0, 0)
    answer = Answer(head, "s2", Amount("b", intervals={"s2": TABLE}), fit_reference(samples().x, np.arange(300) % 5))
    with torch.no_grad():
        assert torch.equal(answer(x)[:, 100:105], answer(x[100:105]))
