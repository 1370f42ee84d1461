import json

import numpy as np
import pytest
import torch

from geossl.methods.base import CloudReconstruction, Reconstruction
from geossl.training.run_folder import RunFolder
from geossl.training.run_page import CLOUD, GAP, SEEN, TRUE, chips, clouds, columns, picture, write_page


@pytest.fixture
def folder(tmp_path):
    """A finished run."""
    (tmp_path / "metrics.csv").write_text("step,loss,odd\n1,2.0,nan\n2,1.5,\n3,1.0,inf\n")
    (tmp_path / "versions.json").write_text(json.dumps({"torch": "9.9"}))
    return RunFolder(tmp_path)


def test_curves_are_of_finite_numbers(folder):
    assert columns(folder.metrics) == [("loss", [1, 2, 3], [2.0, 1.5, 1.0])]


def test_a_page_says_what_was_learned_from_what_and_what_comes_next(folder):
    torch.manual_seed(0)
    chips = torch.rand(2, 1, 8, 8)
    shown = {"A <chip>": Reconstruction(chips, chips / 2, torch.rand(2, 8, 8) < 0.5)}
    recipe = {"method": "scgc", "train": {"max_steps": 3}, "data": {"source": "a&b.gpkg"}}
    text = write_page(folder, recipe, {"scenes": 7}, shown).read_text()
    for part in (
        "scgc, 3 updates",
        "loss: 2 to 1",
        "A &lt;chip&gt;",
        "geossl graphs cluster",
        "a&amp;b.gpkg",
        "9.9",
        ">7<",
    ):
        assert part in text
    assert "nothing was probed" in text


def test_a_page_tells_before_from_after(folder):
    scores = {"patches": 4, "classes": 2, "before": {"knn": 0.5}, "after": {"knn": 0.75}}
    folder.holdout.write_text(json.dumps(scores))
    text = write_page(folder, {"method": "croma", "train": {"max_steps": 3}}, {}, {}).read_text()
    assert "4 held-out patches of 2 classes: knn 0.750; before: knn 0.500." in text
    assert "geossl embed" in text


def test_clouds_are_drawn_upright_and_hidden_points_in_colour():
    post = torch.tensor([[[0.0, 0, 0], [0, 0, 1]]])
    shown = CloudReconstruction(post[:, :1], post[:, 1:], post[:, 1:])
    drawn = clouds(shown)
    seen, found, true = (drawn[:, i * (CLOUD + GAP) :][:, :CLOUD] for i in range(3))
    assert seen.shape == (CLOUD, CLOUD, 3)
    low, high = (np.argwhere((true == colour).all(axis=2)).mean(axis=0) for colour in (SEEN, TRUE))
    assert low[0] - high[0] > CLOUD / 2  # rows count downwards
    assert low[1] == high[1]
    assert not (seen == TRUE).all(axis=2).any()
    assert not (found == TRUE).all(axis=2).any()
    assert picture(shown).startswith("<img")


def test_chips_show_hidden_pixels_grey_then_reconstructed_then_true():
    truth = torch.tensor([[[[0.0, 1], [1, 0]]]])
    masked = torch.tensor([[[True, False], [False, False]]])
    drawn = chips(Reconstruction(truth, 1 - truth, masked))
    side = (drawn.shape[0]) // 2
    first = [drawn[side // 2, i * (2 * side + GAP) + side // 2] for i in range(3)]
    np.testing.assert_allclose(first, [[0.85] * 3, [1] * 3, [0] * 3])
