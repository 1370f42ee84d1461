import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from geossl.errors import InputError
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.files import EncoderFile, load_encoder, provenance, save_encoder
from geossl.models.heads.projection import described, nested_pca, projected
from geossl.training.projection import fit_projection


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return CROMAEncoder(croma_spec("tiny", window_px=48, margin_px=8, dim=32, depth=2, heads=4)).eval()


def batches(count=8):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        s1 = -12 + 5 * torch.randn(4, 2, 48, 48, generator=generator)
        yield {"s1": s1, "s2": 0.2 * torch.rand(4, 12, 48, 48, generator=generator), "valid": torch.ones(4, 48, 48)}


def test_components_are_those_of_scikit_learn():
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)) @ torch.diag(torch.arange(1.0, 7))
    ours, theirs = nested_pca(x), PCA(6).fit(x.numpy())
    np.testing.assert_allclose(ours["variance"], theirs.explained_variance_, rtol=1e-4)
    np.testing.assert_allclose(abs(np.sum(ours["components"].numpy() * theirs.components_, axis=1)), 1, atol=1e-4)
    assert described(ours, 500)["tokens"] == 500


def test_fewer_numbers_are_the_first_of_more_and_travel_with_the_file(encoder, tmp_path):
    note = fit_projection(encoder, batches())
    assert note["projection"]["tokens"] == 3 * 8 * 4 * 36  # joint, radar, optical
    save_encoder(tmp_path / "e.safetensors", encoder, note)
    again = load_encoder(tmp_path / "e.safetensors")
    assert provenance(tmp_path / "e.safetensors")["projection"]["sha256"] == note["projection"]["sha256"]
    images = {name: x for name, x in next(batches()).items() if name != "valid"}
    whole, eight, three = again.tokens(images), projected(again, 8).tokens(images), projected(again, 3).tokens(images)
    torch.testing.assert_close(eight[..., :3], three)
    centred = whole - again.projection["mean"]
    torch.testing.assert_close(eight, centred @ again.projection["components"][:8].T)
    torch.testing.assert_close(
        projected(again, 32).tokens(images).norm(dim=-1), centred.norm(dim=-1), rtol=1e-4, atol=0
    )
    torch.testing.assert_close(projected(again, 8).pooled(images), eight.flatten(1, 2).mean(dim=1))


def test_a_cut_encoder_is_an_encoder_with_a_file_of_its_own(encoder, tmp_path):
    save_encoder(tmp_path / "e.safetensors", encoder, fit_projection(encoder, batches()))
    whole = EncoderFile.open(tmp_path / "e.safetensors")
    cut = whole.cut(8)
    assert whole.cut(None) is whole
    assert cut.sha256 != whole.sha256
    assert cut.sha256 == whole.cut(8).sha256
    assert (cut.encoder.spec.dim, cut.encoder.spec.name, cut.encoder.spec.reach) == (8, "croma_tiny_8", 7)
    images = {"s2": next(batches())["s2"]}
    want = projected(whole.encoder, 8).local_tokens(images, None, 3)
    torch.testing.assert_close(cut.encoder.local_tokens(images, None, 3), want)


def test_weights_are_the_same_with_and_without_a_projection(encoder, tmp_path):
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    fit_projection(encoder, batches())
    save_encoder(tmp_path / "e.safetensors", encoder, {})
    state = load_encoder(tmp_path / "e.safetensors").state_dict()
    assert state.keys() == before.keys()
    assert all(torch.equal(state[k], before[k]) for k in before)


def test_what_cannot_be_says_what_to_do(encoder):
    with pytest.raises(InputError, match="has no projection, which geossl pretrain fits at its end"):
        projected(encoder, 8)
    fit_projection(encoder, batches())
    for dims in (0, 33):
        with pytest.raises(InputError, match=f"dims {dims} is not possible; croma_tiny has 1 to 32"):
            projected(encoder, dims)


def test_too_few_tokens_and_other_data_give_no_projection(encoder):
    few = {"s2": torch.rand(1, 12, 40, 40)}
    assert fit_projection(encoder, [few]) == {}
    assert fit_projection(encoder, [torch.zeros(3)]) == {}
    assert encoder.projection is None
