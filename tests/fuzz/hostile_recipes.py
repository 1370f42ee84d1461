"""Hostile values for every key of every recipe: refused in one line, or trained for a step."""

from typing import get_args

from geossl.recipe.loading import RECIPES
from geossl.recipe.sections import Section
from tests.fuzz import hostile
from tests.fuzz.attempts import LONG, attempt

FEW = ["train.max_steps=1"]
SCENES = ["data.batch_size=2", "data.chip_px=32", "data.crop_px=null", "encoder.window_px=32", "encoder.halo_px=8"]
DECODER = ["objective.decoder_dim=64", "objective.decoder_depth=1"]
BASES = {  # what makes a step short, by method; "{}" stands for the folder of good files
    "croma": [*SCENES, *DECODER, "probe.every_steps=0", "encoder.statistics=ssl4eo"],
    "mr_mae": [*SCENES, *DECODER, "teacher.name={}/croma.safetensors", "teacher.recipe=null"],
    "hybrid_distill": [*SCENES, "teachers.feature.name={}/croma.safetensors", "teachers.feature.recipe=null",
                       "teachers.relation.name={}/mae.safetensors", "teachers.relation.recipe=null"],
    "cross_video_mae": ["data.batch_size=2", "data.frames=2", "encoder.depth=1", "encoder.dim=32"],
    "point_cmae": ["data.batch_size=2", "data.points=128", "encoder.groups=16", "encoder.group_size=8"],
    "selfcon": ["encoder.depth=10", "encoder.width=4", "objective.projection=[16,8]", "data.batch_size=8",
                "encoder.input=s2", "objective.labels=[]", "data.views=1", "data.holdout_generators=[]"],
    "graphmae": ["data.source={}/parcels.gpkg", "data.features=[ndvi]", "encoder.dim=8", "encoder.heads=2"],
    "scgc": ["data.source={}/parcels.gpkg", "data.features=[ndvi]", "encoder.widths=[8]", "encoder.dim=4",
             "objective.clusters=2", "objective.autoencoder_steps=0"],
    "regularized_ae": ["data.count=500", "encoder.hidden=[8]", "data.batch_size=32"],
}  # fmt: skip
VALUES = ["null", "-1", "0", "1", "2", "7", "1.5", "0.5", "1e30", "1e-30", "nan", ".nan", ".inf", "''", "x", LONG, "[]",
          "[1]", "[3, 1]", "[0.5, 0.9, 1]", "[.nan, .nan]", "[null]", "[[1]]", "{}", "{a: 1}", "true", "2020-01-01",
          "1000000", "99999999999999999999", "!!binary aGk=", "&a [*a]", "'\\0'", "../x"]  # fmt: skip
SKIPPED = {"train.devices"}  # more than one starts processes of their own


def keys_of(section, prefix=""):
    """Keys of a recipe with their dots, sections below sections, too."""
    for name, field in section.model_fields.items():
        inner = [c for c in (field.annotation, *get_args(field.annotation)) if isinstance(c, type)]
        inner = [c for c in inner if issubclass(c, Section)]
        if f"{prefix}{name}" not in SKIPPED:
            yield f"{prefix}{name}"
        for page in inner:
            yield from keys_of(page, f"{prefix}{name}.")


def cases(good, bad):
    """(recipe, key, value, words typed); a key of the base is replaced."""
    for method, page in RECIPES.items():
        base = [*FEW, *BASES[method]]
        for key in keys_of(page):
            for value in VALUES:
                words = [word.replace("{}", str(good)) for word in base if word.partition("=")[0] != key]
                yield method, key, value, ["pretrain", method, *words, f"{key}={value}"]


def judge(verb, words, watched):
    """As of any verb; too little memory is an answer, too, and a run that began leaves its folder."""
    outcome, wrong, said = hostile.judge(verb, words, watched)
    is_said = said.count("\n") == 1 and ("not enough memory" in said or "is not finite" in said)
    return outcome, "" if wrong == "exit 1" and is_said else wrong, said


NAME = "recipes"

if __name__ == "__main__":
    attempt(NAME, cases, judge)
