import subprocess
import sys

import pytest

from geossl import recipe
from geossl.errors import MissingFileError, RecipeError, UnknownNameError

PAGE = """\
method: croma
encoder:
  size: tiny
data:
  chip_px: 48
  batch_size: 4
train:
  max_steps: 5
  lr: 0.001
"""


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(PAGE)
    return path


@pytest.mark.parametrize("name", recipe.names())
def test_packaged_recipes_are_valid_and_survive_a_round_trip(name, tmp_path):
    loaded = recipe.load(name)
    (tmp_path / "again.yaml").write_text(recipe.dump(loaded))
    assert recipe.load(tmp_path / "again.yaml") == loaded


def test_overrides_change_values_and_keep_types(page):
    loaded = recipe.load(page, ["train.max_steps=7", "data.crop_px=[24, 96]", "resume=true", "out=runs/x"])
    assert (loaded.train.max_steps, loaded.data.crop_px, loaded.resume, loaded.out) == (7, (24, 96), True, "runs/x")


def test_an_unknown_key_names_file_line_and_nearest_key(page):
    page.write_text(PAGE.replace("batch_size", "batchsize"))
    with pytest.raises(
        RecipeError, match=r"mine.yaml line 6: unknown key 'data.batchsize'; did you mean 'batch_size'\?"
    ):
        recipe.load(page)


def test_an_unknown_override_names_the_override(page):
    with pytest.raises(RecipeError, match=r"override 'train.max_step=3': unknown key .*did you mean 'max_steps'"):
        recipe.load(page, ["train.max_step=3"])


def test_a_wrong_type_names_line_key_value_and_expectation(page):
    page.write_text(PAGE.replace("max_steps: 5", "max_steps: many"))
    with pytest.raises(
        RecipeError, match=r"line 8: train.max_steps = 'many' is wrong; input should be a valid integer"
    ):
        recipe.load(page)


def test_a_missing_key_is_named(page):
    page.write_text(PAGE.replace("  lr: 0.001\n", ""))
    with pytest.raises(RecipeError, match=r"key 'train.lr' is missing"):
        recipe.load(page)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.chip_px=50", "data.chip_px=50 must be a multiple of the 8-px patch"),
        ("data.chip_px=8", "less than two patches"),
        ("encoder.margin_px=64", "leaves nothing of encoder.window_px=120"),
        ("objective.mask_ratio=1", "less than 1"),
        ("data.batch_size=1", "greater than or equal to 2"),
        ("encoder.size=huge", "'tiny', 'small', 'base' or 'large'"),
        ("method=cromma", "did you mean 'croma'"),
        ("train", "not of the form section.key=value"),
        ("train.lr.x=1", "'lr' is a value, not a section"),
        ("data.chip_px={", "not readable as YAML"),
    ],
)
def test_wrong_values_say_what_was_expected(page, override, message):
    with pytest.raises(RecipeError, match=message):
        recipe.load(page, [override])


def test_broken_yaml_names_the_line(page):
    page.write_text("method: croma\nencoder: {size: tiny\n")
    with pytest.raises(RecipeError, match=r"mine.yaml line \d: not readable as YAML"):
        recipe.load(page)


def test_a_recipe_cannot_build_python_objects(page):
    page.write_text("method: !!python/object/apply:os.system ['touch hacked']\n")
    with pytest.raises(RecipeError, match="not readable as YAML"):
        recipe.load(page)


def test_a_missing_recipe_is_told_apart_from_an_unknown_name():
    with pytest.raises(MissingFileError, match="does not exist; packaged recipes: croma, croma_base"):
        recipe.load("nowhere/my.yaml")
    with pytest.raises(UnknownNameError, match="did you mean 'croma'"):
        recipe.load("crom")


def test_a_recipe_is_checked_without_importing_torch(page):
    code = f"import sys, geossl.recipe as r; r.load({str(page)!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
