import pytest
import torch

from geossl.models.encoders.point_transformer import Clouds, PointTransformer, point_spec, run_blocks
from geossl.models.files import load_encoder, save_encoder
from geossl.models.heads.point_segmenter import PointSegmenter, point_segmenter_spec

SMALL = Clouds(points=64)


def small(clouds=SMALL, **settings):
    torch.manual_seed(0)
    settings = {"groups": 8, "group_size": 6, "width": 24, "depth": 3, "heads": 4} | settings
    return PointTransformer(point_spec("tiny", clouds, **settings)).eval()


def clouds(b=2, n=64, c=3, seed=0):
    return torch.randn(b, n, c, generator=torch.Generator().manual_seed(seed))


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_the_papers_size_has_the_published_numbers_of_parameters():
    encoder = PointTransformer(point_spec("base"))
    assert count(encoder.embed) == 494_464
    assert count(encoder.place) == 50_048
    assert count(encoder.blocks[0]) == 1_773_312
    assert count(encoder) == 21_825_024


def test_groups_are_points_of_the_cloud_seen_from_their_centre():
    encoder, x = small(Clouds(features=("intensity",))), clouds(c=4)
    centres, patches = encoder.group(x)
    assert torch.equal(patches[:, :, 0, :3], torch.zeros(2, 8, 3))  # a centre is its own nearest point
    back = patches[..., :3] + centres[:, :, None]
    apart = (back.flatten(1, 2)[:, :, None] - x[:, None, :, :3]).norm(dim=3)
    assert apart.amin(dim=2).max() < 1e-5
    assert torch.equal(patches[..., 3].flatten(1), x[..., 3].gather(1, apart.argmin(dim=2)))


def test_vectors_do_not_depend_on_the_order_of_points():
    encoder, x = small(), clouds()
    mixed = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(encoder.pooled(x), encoder.pooled(x[:, mixed]))
    where = clouds(n=9, seed=5)
    torch.testing.assert_close(encoder.per_point(x, where), encoder.per_point(x[:, mixed], where))


def test_a_cloud_embeds_the_same_alone_and_in_a_batch():
    encoder, x = small(), clouds(b=5)
    torch.testing.assert_close(encoder.pooled(x)[3:4], encoder.pooled(x[3:4]), rtol=1e-5, atol=1e-6)


def test_a_moved_cloud_has_the_same_patches_elsewhere():
    encoder, x = small(), clouds()
    moved = x + torch.tensor([0.5, -0.25, 1.0])
    a, b = encoder.group(x), encoder.group(moved)
    torch.testing.assert_close(a.patches, b.patches, atol=1e-5, rtol=0)
    torch.testing.assert_close(b.centres - a.centres, torch.tensor([0.5, -0.25, 1.0]).expand(2, 8, 3))
    assert (encoder.pooled(x) - encoder.pooled(moved)).abs().max() > 1e-3  # positions are seen


def test_positions_are_added_before_every_block():
    encoder, x = small(), clouds(n=8, c=24)
    place = encoder.place(clouds(n=8, seed=3))
    often = run_blocks(encoder.blocks, x, place)[-1]
    once = x + place
    for block in encoder.blocks:
        once = block(once)
    assert (often - once).abs().max() > 1e-3
    by_hand = x
    for block in encoder.blocks:
        by_hand = block(by_hand + place)
    torch.testing.assert_close(often, by_hand)


@torch.no_grad()
def test_skipped_blocks_keep_the_mean_and_only_happen_with_random_numbers():
    encoder, x = small(), clouds(b=4000, n=2, c=24)
    place = torch.zeros_like(x)
    plain = run_blocks(encoder.blocks, x, place, 0.5, None)
    torch.testing.assert_close(plain[-1], run_blocks(encoder.blocks, x, place)[-1])
    dropped = run_blocks(encoder.blocks, x, place, 0.5, torch.Generator().manual_seed(0))
    assert torch.equal(plain[0], dropped[0])  # the first block is never skipped
    unchanged = (dropped[2] == dropped[1]).flatten(1).all(dim=1).float().mean()
    assert unchanged == pytest.approx(0.25, abs=0.03)  # attention and feed-forward are skipped independently
    change, whole = (dropped[1] - dropped[0]).mean(), (plain[1] - plain[0]).mean()
    assert change == pytest.approx(float(whole), abs=2e-3)


@pytest.mark.parametrize("change", [{"groups": 9}, {"group_size": 5}, {"depth": 2}, {"start": "first"}, {"heads": 2}])
def test_every_setting_changes_the_vectors(change):
    x = clouds()
    assert not torch.equal(small().pooled(x), small(**change).pooled(x))


def test_a_width_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="multiple of 3"):
        small(width=32)


def test_an_encoder_and_a_segmenter_come_back_from_their_files(tmp_path):
    encoder, x = small(Clouds(features=("intensity", "last"), block_m=12.0, ground="auto")), clouds(c=5)
    save_encoder(tmp_path / "e.safetensors", encoder, {})
    again = load_encoder(tmp_path / "e.safetensors")
    assert again.spec == encoder.spec
    assert torch.equal(again.pooled(x), encoder.pooled(x))
    model = PointSegmenter(point_segmenter_spec(encoder.spec, ["ground", "tree"], [2, 5])).eval()
    save_encoder(tmp_path / "s.safetensors", model, {})
    back = load_encoder(tmp_path / "s.safetensors")
    assert back.classes == ("ground", "tree")
    assert torch.equal(back.logits(x, x[:, :7]), model.logits(x, x[:, :7]))


def test_a_points_class_depends_on_itself_and_the_cloud_not_on_other_questions():
    encoder, x = small(), clouds()
    model = PointSegmenter(point_segmenter_spec(encoder.spec, ["a", "b", "c"], [1, 2, 3])).eval()
    torch.testing.assert_close(model.logits(x, x)[:, 5:6], model.logits(x, x[:, 5:6]))
