"""Windows over any block: a patch comes from the window whose middle it lies in, whatever is batched or left out."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from geossl.inference.engine.encode import EncodeConfig, batches, encode_block, rim_px
from geossl.inference.engine.geometry import own_geometry
from geossl.models.encoder import DenseModel, DenseSpec
from geossl.sensors import SensorSpec

ONE_BAND = SensorSpec(("B02",), "reflectance", "L2A", (0.0,), (1.0,))


class Witness(DenseModel):
    """The token of a patch says which patch of its window it was, and the mean of its pixels."""

    def __init__(self, spec):
        super().__init__()
        self.spec = spec

    def tokens(self, images, kept=None):
        patch = self.spec.patch_px
        means = torch.nn.functional.avg_pool2d(images["s2"].nan_to_num(), patch)[:, 0]
        rows, columns = torch.meshgrid(*map(torch.arange, means.shape[1:]), indexing="ij")
        return torch.stack([*(n.expand(means.shape).float() for n in (rows, columns)), means], -1)


@st.composite
def blocks(draw):
    """A witness and pixels of a block of cells, numbered from the upper left; some are missing."""
    patch, keep, edge = draw(st.sampled_from([2, 4])), draw(st.integers(1, 4)), draw(st.integers(0, 2))
    spec = DenseSpec(
        name="witness",
        architecture="none",
        arguments={},
        dim=3,
        source="",
        licence="",
        sensors={"s2": ONE_BAND},
        patch_px=patch,
        gsd_m=10.0,
        window_px=(keep + 2 * edge) * patch,
        margin_px=edge * patch,
    )
    rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    rim = rim_px(spec, own_geometry(spec), 1)
    shape = (rows * keep * patch + 2 * rim, columns * keep * patch + 2 * rim)
    pixels = np.arange(shape[0] * shape[1], dtype=np.float32).reshape(1, *shape)
    missing = draw(st.lists(st.tuples(st.integers(0, shape[0] - 1), st.integers(0, shape[1] - 1)), max_size=4))
    for y, x in missing:
        pixels[:, max(0, y - patch) : y + patch, max(0, x - patch) : x + patch] = np.nan
    return Witness(spec).eval(), pixels, (rows, columns, keep, edge)


def same(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@given(blocks())
def test_a_patch_comes_from_the_window_in_whose_middle_it_lies(block):
    encoder, pixels, (rows, columns, keep, edge) = block
    found = encode_block({"s2": pixels}, encoder, EncodeConfig())
    present = np.isfinite(found.embeddings).all(axis=0)
    np.testing.assert_array_equal(found.sensors > 0, found.valid > 0)
    for axis, count in ((0, rows), (1, columns)):
        numbers = np.tile(np.arange(edge, edge + keep), count)
        expected = np.broadcast_to(np.expand_dims(numbers, 1 - axis), present.shape)
        np.testing.assert_array_equal(found.embeddings[axis][present], expected[present])
    patch, rim = encoder.spec.patch_px, encoder.spec.margin_px
    inner = np.nan_to_num(pixels[0, rim : pixels.shape[1] - rim, rim : pixels.shape[2] - rim])
    means = inner.reshape(rows * keep, patch, columns * keep, patch).mean(axis=(1, 3))
    np.testing.assert_allclose(found.embeddings[2][present], means[present], rtol=1e-5)


@given(blocks(), st.integers(1, 7))
def test_the_batch_size_changes_nothing(block, size):
    encoder, pixels, _ = block
    same(*(encode_block({"s2": pixels}, encoder, EncodeConfig(batch_size=n)) for n in (1, size)))


@given(blocks())
def test_a_block_gives_what_its_cells_give_one_by_one(block):
    encoder, pixels, (rows, columns, keep, _) = block
    whole = encode_block({"s2": pixels}, encoder, EncodeConfig())
    side, rim = keep * encoder.spec.patch_px, encoder.spec.margin_px
    for r, c in np.ndindex(rows, columns):
        cut = pixels[:, r * side : (r + 1) * side + 2 * rim, c * side : (c + 1) * side + 2 * rim]
        alone = encode_block({"s2": cut}, encoder, EncodeConfig())
        at = np.s_[..., r * keep : (r + 1) * keep, c * keep : (c + 1) * keep]
        same(alone, [layer[at] for layer in whole])


@given(blocks(), st.data())
def test_cells_that_are_not_asked_for_stay_empty_and_change_no_other(block, data):
    encoder, pixels, (rows, columns, keep, _) = block
    cells = np.array(data.draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns)))
    cells = cells.reshape(rows, columns)
    some = encode_block({"s2": pixels}, encoder, EncodeConfig(), cells)
    whole = encode_block({"s2": pixels}, encoder, EncodeConfig())
    asked = np.kron(cells, np.ones((keep, keep), bool))
    assert np.isnan(some.embeddings[:, ~asked]).all()
    assert not some.sensors[~asked].any()
    same([layer[..., asked] for layer in some], [layer[..., asked] for layer in whole])


@given(st.lists(st.tuples(st.integers(), st.integers(), st.just({})), min_size=1, max_size=40), st.integers(1, 12))
def test_batches_are_full_and_hold_every_job_in_order(jobs, size):
    cut = batches(jobs, size)
    assert {len(batch) for batch in cut} == {size}
    flat = [job for batch in cut for job in batch]
    assert flat[: len(jobs)] == jobs
    assert all(job == jobs[-1] for job in flat[len(jobs) :])
    assert len(flat) - len(jobs) < size
