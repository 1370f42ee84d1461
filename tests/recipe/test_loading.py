import re
import subprocess
import sys

import pytest

from geossl import recipe
from geossl.errors import MissingFileError, Note, RecipeError, UnknownNameError

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
        ("encoder.halo_px=64", "leaves nothing of encoder.window_px=120"),
        ("objective.mask_ratio=1", "less than 1"),
        ("data.batch_size=1", "greater than or equal to 2"),
        ("encoder.size=huge", "'tiny', 'small', 'base' or 'large'"),
        ("method=cromma", "did you mean 'croma'"),
        ("train", "not of the form section.key=value"),
        ("train.lr.x=1", "'lr' is a value, not a section"),
        ("data.chip_px={", "not readable as YAML"),
        ("data.chip_px=" + "[" * 3000, "not readable as YAML"),
        ("data.crop_px=[96, 24]", "must be the least side, then the greatest"),
        ("data.chip_px=40000", "less than or equal to 4096"),
        ("data.workers=100000", "less than or equal to 1024"),
        ("train.betas=[0.9, 1.5]", "less than 1"),
        ("train.seed=-1", "greater than or equal to 0"),
        ("train.seed=4294967296", "less than 4294967296"),
        ("train.lr=.inf", "finite number"),
        ("train.max_steps=1000000000000", "less than or equal to 1000000000"),
        ("objective.decoder_dim=129", "objective.decoder_dim=129 does not divide into heads; use a multiple of 64"),
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
    with pytest.raises(MissingFileError, match="recipe file 'nowhere/my.yaml' does not exist; see geossl list recipes"):
        recipe.load("nowhere/my.yaml")
    with pytest.raises(UnknownNameError, match="did you mean 'croma'"):
        recipe.load("crom")
    with pytest.raises(UnknownNameError, match="did you mean 'graphmae/cora'"):
        recipe.load("graphmae/corra")


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("mr_mae", ["objective.rebuild_weight=1"], "`objective.rebuild_weight` is now `objective.reconstruct_weight`"),
        ("cross_video_mae", ["objective.rebuild_video=1"], "`objective.rebuild_video` is now `objective.reconstruct_v"),
        ("cross_video_mae", ["objective.frame_from=held_out"], "`objective.frame_from=holdout`"),
        ("scgc", ["data={source: sample, held_out: 0.2}"], "`data.held_out` is now `data.holdout`"),
        ("selfcon", ["data.unseen=[blend]"], "`data.unseen` is now `data.holdout_generators`"),
        ("selfcon", ["encoder.input=pictures"], "`encoder.input=pictures` is now `encoder.input=images`"),
        ("croma", ["encoder.margin_px=24"], "`encoder.margin_px` is now `encoder.halo_px`"),
    ],
)
def test_a_key_of_before_is_answered_with_its_name_of_today(name, overrides, message):
    with pytest.raises(RecipeError, match=re.escape(message)) as caught:
        recipe.load(name, overrides)
    assert str(caught.value).startswith(f"override {overrides[0]!r}: `")


def test_a_key_of_before_in_a_file_names_its_line_and_is_read_in_a_run(page):
    page.write_text(PAGE.replace("  size: tiny\n", "  size: tiny\n  margin_px: 16\n"))
    with pytest.raises(RecipeError, match=r"mine.yaml line 4: `encoder.margin_px` is now `encoder.halo_px`"):
        recipe.load(page)
    assert recipe.load(page, is_run=True).encoder.halo_px == 16
    (page.parent / "versions.json").write_text("{}")
    assert recipe.load(page).encoder.halo_px == 16
    with pytest.raises(RecipeError, match="is now `encoder.halo_px`"):
        recipe.load(page, ["encoder.margin_px=8"])  # what is typed today is of today


def test_a_recipe_of_a_data_set_stands_below_its_method():
    assert recipe.load("graphmae/cora").data.source == "cora.npz"
    assert {"croma", "croma/base", "graphmae/cora", "scgc/acm"} <= set(recipe.names())
    with pytest.warns(Note, match="recipe graphmae_cora is now graphmae/cora"):
        assert recipe.load("recipes/graphmae_cora.yaml") == recipe.load("graphmae/cora")


def test_a_variant_sets_what_belongs_to_it_and_overrides_win():
    plain, star = (recipe.load("scgc/acm", changes) for changes in ([], ["objective.star=True"]))
    assert (plain.objective.star, plain.objective.order, plain.objective.alpha) == (False, 2, 0.5)
    assert (star.objective.star, star.objective.order, star.objective.alpha) == (True, 1, 1)
    assert star.out == "runs/scgc_star_acm"
    assert recipe.load("scgc/acm", ["objective.order=3", "objective.star=true"]).objective.order == 3
    with pytest.raises(RecipeError, match="objective.star=true says the opposite of objective.reconstruct"):
        recipe.load("scgc/acm", ["objective.star=true", "objective.reconstruct=true", "objective.accumulate=false"])


def test_variants_must_be_lists_of_overrides(page):
    page.write_text(PAGE + "variants: {resume=true: 3}\n")
    with pytest.raises(RecipeError, match="variants must be lines of 'key=value:"):
        recipe.load(page)


def test_a_recipe_is_checked_without_importing_torch(page):
    code = f"import sys, geossl.recipe as r; r.load({str(page)!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("hybrid_distill", "objective.relation_heads=5", "relation_heads=5 does not divide the student's width of 128"),
        ("selfcon", "objective.chunk=1", "objective.chunk=1 leaves a single image of"),
        ("selfcon", "objective.chunk=5", "use a number that divides them"),
        ("scgc", "train.seed=214748364", "train.seed=214748364 is too large; k-means takes less than 214748364"),
        ("scgc", "train.max_steps=400", "must be more than objective.autoencoder_steps=400"),
        ("mae", "objective.decoder_heads=3", "must be a multiple of 4 x objective.decoder_heads=3"),
        ("mae", "data.crop_px=[96, 40]", "must be the least side, then the greatest"),
        ("graphmae", "encoder.heads=3", "encoder.dim=256 must be a multiple of encoder.heads=3"),
        ("cross_video_mae", "encoder.heads=5", "encoder.dim=96 must be a multiple of 4 and of encoder.heads=5"),
        ("point_cmae", "data.scale=[1.2, 0.8]", "must be two positive factors, the smaller one first"),
        ("regularized_ae", "data.patch_px=5", "data.patch_px=5 is not possible; use 1, 2, 4, 8 or 16"),
    ],
)
def test_values_that_do_not_go_together_are_refused_without_torch(name, override, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        recipe.load(name, [override])
