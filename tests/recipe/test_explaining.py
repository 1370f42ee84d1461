import re
import subprocess
import sys
from typing import get_args

import pytest

from geossl import recipe
from geossl.recipe.explaining import allowed, explain, first_line, shown
from geossl.recipe.sections import Positive, Section


def sections(kind):
    """A recipe class and every section class within it."""
    yield kind
    for info in kind.model_fields.values():
        for part in (info.annotation, *get_args(info.annotation)):
            if isinstance(part, type) and issubclass(part, Section):
                yield from sections(part)


KEYS = {
    f"{kind.__name__}.{key}": info.description
    for page in recipe.RECIPES.values()
    for kind in dict.fromkeys(sections(page))
    for key, info in kind.model_fields.items()
    if not any(isinstance(p, type) and issubclass(p, Section) for p in (info.annotation, *get_args(info.annotation)))
}


def is_a_sentence(text):
    """Whether a description is one: it begins as such, or with a value of the key, and holds none of the bad words."""
    return (
        text is not None
        and text.endswith(".")
        and len(text.split()) >= 3
        and re.match(r"[A-Z]|sample |adamw |s2 ", text)
        and not re.match(r"(Of|For|With|As|By|In|And|Or|It|Its|Their|They|The same) ", text)
        and not re.search(r"\b(is|are) no\b|\bAs there\b|\bgo on with\b|\bpicture", text)
    )


def test_every_key_is_described_in_a_sentence():
    assert len(KEYS) > 250
    assert {key: text for key, text in KEYS.items() if not is_a_sentence(text)} == {}


@pytest.mark.parametrize("page", recipe.RECIPES.values(), ids=lambda page: page.__name__)
def test_every_section_has_a_heading_that_fits_a_line(page):
    for kind in sections(page):
        assert 20 <= len(first_line(kind)) <= 90
        assert first_line(kind).endswith(".")
        assert kind is Section or kind.__doc__ != Section.__doc__


@pytest.mark.parametrize("name", recipe.names())
def test_the_page_shows_every_key_with_its_value_in_a_hundred_columns(name):
    loaded = recipe.load(name)
    text = explain(loaded)
    assert max(map(len, text.splitlines())) <= 100
    assert text.isascii()
    for key in ("max_steps", "out", *type(loaded.data).model_fields, *type(loaded.objective).model_fields):
        assert re.search(rf"^  {key} ", text, flags=re.M), key
    assert re.search(rf"^  lr +{shown(loaded.train.lr)} ", text, flags=re.M)
    assert re.search(r"^  seed +\d+ +Seeds weights,", text, flags=re.M)


def test_a_key_says_value_meaning_range_and_default():
    text = " ".join(explain(recipe.load("croma", ["data.chip_px=56"])).split())
    assert "chip_px 56 Side of a training chip in pixels. (integer from 1 to 4096; required)" in text
    assert "mask_ratio 0.75 Share of patches hidden, drawn for each sensor by itself. (number above 0 below 1; " in text
    assert "max_logit_scale 100 Ceiling" in text
    assert "(number above 0 or null; default null)" in text
    assert text.index("encoder: ") < text.index("objective: ") < text.index("data: ") < text.index("train: ")


def test_a_section_that_is_left_out_is_named():
    text = " ".join(explain(recipe.load("mae")).split())
    assert "teacher null A frozen network whose features are imitated. (a section or null; default null)" in text


def test_ranges_are_in_words():
    assert allowed(Positive) == "integer from 1"
    assert allowed(tuple[int, ...] | None) == "list, each integer or null"
    assert allowed(bool) == "true or false"
    assert shown({"s2": "all", "s1": ["VV"]}) == "{s2: all, s1: [VV]}"
    assert shown(1e-4) == "0.0001"


def test_a_recipe_is_explained_without_importing_torch():
    code = (
        "import sys; from click.testing import CliRunner; from geossl.cli import main; "
        "r = CliRunner().invoke(main, ['pretrain', 'croma', '--explain']); "
        "sys.exit(r.exit_code or 'mask_ratio' not in r.stdout or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
