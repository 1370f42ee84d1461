import json

import numpy as np
from PIL import Image

from geossl.data.sentinel.rasters import SAMPLE
from geossl.data.synthetic.build import generate


def test_a_generator_of_ones_own_is_fitted_on_the_training_strip_and_changes_no_other(tmp_path):
    fitted_on = []

    def fit(train):
        fitted_on.extend(chip.name for chip in train)
        return lambda chips, rng: [chip.image[:, ::-1] for chip in chips]

    for path in SAMPLE.glob("s?/433D*.tif"):
        (tmp_path / "scene" / path.parent.name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "scene" / path.parent.name / path.name).symlink_to(path)
    source = tmp_path / "scene"
    plain = generate(tmp_path / "plain", source=source, generators=("phase",))
    own = generate(tmp_path / "own", source=source, generators=("phase",), extra={"upside down": fit})
    made = sorted((own / "train" / "upside down").rglob("*.png"))
    assert sorted(fitted_on) == sorted(path.stem for path in made)
    real = own / "train" / "real" / made[0].relative_to(own / "train" / "upside down")
    with Image.open(made[0]) as image, Image.open(real) as original:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(original)[::-1])
    assert len(made) > 20
    for path in plain.rglob("phase/*/*.png"):
        assert path.read_bytes() == (own / path.relative_to(plain)).read_bytes()
    assert json.loads((own / "generated.json").read_text())["generators"] == ["upside down", "phase"]
