import io
import json
import os
import pickle
import zipfile
from dataclasses import replace

import pytest
import torch
from jsonschema import ValidationError

from geossl.errors import GridError, WeightsError
from geossl.models.encoders.conv_vit import ConvViT, conv_vit_spec
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.encoders.galileo import GalileoEncoder, galileo_spec
from geossl.models.encoders.presto import PrestoEncoder, presto_spec
from geossl.models.encoders.score_autoencoder import PatchAutoencoder
from geossl.models.encoders.vit import ViT, vit_spec
from geossl.models.files import load_encoder
from geossl.models.foreign.exporting import export_encoder
from geossl.models.foreign.masked import Exportable
from geossl.models.foreign.mlm import MLM, mlm_item
from geossl.models.foreign.programs import example, read_program
from geossl.models.foreign.vetting import is_arithmetic, vet
from geossl.models.spec import ImageGeometry
from geossl.sensors import S1, S2
from tests.schemas import check


def croma():
    return CROMAEncoder(croma_spec("tiny", window_px=48, margin_px=8, dim=32, depth=2, heads=4))


def vit(position):
    return ViT(made(vit_spec, "nano", {"s1": S1, "s2": S2}, position=position, depth=2, dim=32, heads=2))


def made(spec, size, sensors, **more):
    """A spec by whatever its arguments are called."""
    geometry = ImageGeometry(window_px=48)
    more = {**more, **({} if spec is conv_vit_spec else {"patch_px": 8})}
    return spec(size, sensors, geometry=geometry, **more)


def conv_vit():
    return ConvViT(made(conv_vit_spec, "tiny", {"s2": S2}))


def presto():
    return PrestoEncoder(replace(presto_spec(month=11, dates=3), window_px=16))


ENCODERS = {
    "croma": croma,
    "galileo": lambda: GalileoEncoder(galileo_spec(window_px=48, margin_px=8)),
    "vit alibi": lambda: vit("alibi"),
    "vit sincos": lambda: vit("sincos"),
    "conv_vit": conv_vit,
}


@pytest.mark.parametrize("name", ENCODERS)
@torch.no_grad()
def test_the_form_without_branches_gives_the_encoders_vectors(name):
    torch.manual_seed(0)
    encoder = ENCODERS[name]().eval()
    images = example(encoder.spec, 4, 48)
    first = next(iter(images))
    images[first][1, :, :16, 8:24] = torch.nan  # a hole in one sensor
    if len(images) > 1:
        images[first][2] = torch.nan  # a sensor that is missing
    kept = {n: x.isfinite().all(1).unflatten(1, (-1, 8)).unflatten(3, (-1, 8)).any(4).any(2) for n, x in images.items()}
    tokens, pooled = Exportable(encoder)(*images.values())
    torch.testing.assert_close(tokens, encoder.tokens(images, kept), rtol=0, atol=1e-5, equal_nan=True)
    torch.testing.assert_close(pooled, encoder.pooled(images, kept), rtol=0, atol=1e-5, equal_nan=True)


@torch.no_grad()
def test_series_of_pixels_have_that_form_too(tmp_path):
    from jaxtyping import config

    torch.manual_seed(0)
    encoder = presto().eval()
    images = example(encoder.spec, 3, 8)
    assert images["s2"].shape[1] == 3 * len(encoder.spec.sensors["s2"].bands)
    images["s1"][0, :2] = torch.nan  # no radar in the first month
    images["s2"][1] = torch.nan
    images["s2"][2, 4, 1:3] = torch.nan  # a band of a month
    tokens, pooled = Exportable(encoder)(*images.values())
    assert tokens[2, 0, 0].isnan().all()  # the hole of all months
    torch.testing.assert_close(tokens, encoder.tokens(images), rtol=0, atol=1e-5, equal_nan=True)
    torch.testing.assert_close(pooled, encoder.pooled(images), rtol=0, atol=1e-5, equal_nan=True)
    config.update("jaxtyping_disable", True)  # checks of shapes would fix the sizes
    try:
        found = export_encoder(encoder, tmp_path / "presto.pt2", "0" * 64)
    finally:
        config.update("jaxtyping_disable", False)
    assert found.difference < 1e-5
    assert found.side_px is None
    again = load_encoder(found.path)
    assert (again.spec.dates, again.spec.arguments["month"], again.spec.patch_px) == (3, 11, 1)
    torch.testing.assert_close(again.tokens(images), tokens, rtol=0, atol=1e-5, equal_nan=True)
    alone = {"s2": images["s2"][2:]}
    torch.testing.assert_close(again.tokens(alone), encoder.tokens(alone), rtol=0, atol=1e-5, equal_nan=True)
    radar, optical = json.loads(found.metadata.read_text())["properties"]["mlm:input"]
    assert radar["input"]["shape"] == [-1, 6, -1, -1]
    assert "bands of 3 months from month 11 on" in optical["description"]


@torch.no_grad()
def test_an_image_without_data_has_no_vector():
    encoder = croma().eval()
    images = {n: torch.full_like(x, torch.nan) for n, x in example(encoder.spec, 2, 48).items()}
    tokens, pooled = Exportable(encoder)(*images.values())
    assert tokens.isnan().all()
    assert pooled.isnan().all()


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """A small CROMA and its program."""
    from jaxtyping import config

    torch.manual_seed(0)
    encoder, path = croma().eval(), tmp_path_factory.mktemp("program") / "model.pt2"
    config.update("jaxtyping_disable", True)  # checks of shapes would fix the sizes
    try:
        found = export_encoder(encoder, path, "0" * 64)
    finally:
        config.update("jaxtyping_disable", False)
    return encoder, found


@torch.no_grad()
def test_a_program_comes_back_with_the_same_vectors(program):
    encoder, found = program
    assert found.difference < 1e-5
    assert found.side_px is None
    again = load_encoder(found.path)
    assert again.spec.sensors == encoder.spec.sensors
    assert (again.spec.window_px, again.spec.margin_px, again.spec.reach) == (48, 8, None)
    for size in ((1, 48), (3, 64)):
        images = example(encoder.spec, *size)
        images["s1"][0, :, :, :8] = torch.nan
        cells = {n: x.isfinite().all(1).unflatten(1, (-1, 8)).unflatten(3, (-1, 8)) for n, x in images.items()}
        kept = {n: x.all(4).all(2) for n, x in cells.items()}
        got, want = again.tokens(images, kept), encoder.tokens(images, kept)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5, equal_nan=True)
    alone, fed = {"s2": images["s2"]}, {"s2": kept["s2"]}
    torch.testing.assert_close(again.pooled(alone), encoder.pooled(alone, fed), rtol=0, atol=1e-5, equal_nan=True)
    with pytest.raises(GridError, match="must be multiples of the 8 px patch"):
        again.tokens({"s2": torch.zeros(1, 12, 44, 48)})


@pytest.mark.parametrize("file", ["m.pt2", "m.onnx"])
def test_metadata_is_valid_by_the_extensions_schema(file):
    item = mlm_item(croma().spec, file, None, "0" * 64)
    check(item, MLM)
    check(item, "https://geojson.org/schema/Feature.json")
    with pytest.raises(ValidationError, match="'embedding' is not one of"):
        check(item | {"properties": item["properties"] | {"mlm:tasks": ["embedding"]}}, MLM)


def test_metadata_says_bands_units_and_sizes(program):
    item = json.loads(program[1].metadata.read_text())
    assert item["properties"]["mlm:name"] == "croma_tiny"
    radar, optical = item["properties"]["mlm:input"]
    assert radar["bands"] == ["VV", "VH"]
    assert optical["input"]["shape"] == [-1, 12, -1, -1]
    assert "reflectance, NaN = no data" in optical["description"]
    assert item["assets"]["model"]["href"] == "./model.pt2"
    assert "any whole number of patches" in program[1].summary()


def test_a_program_holds_no_paths_of_the_machine(program):
    with zipfile.ZipFile(program[1].path) as archive:
        graph = next(archive.read(n) for n in archive.namelist() if n.endswith("models/model.json"))
    assert b"stack_trace" not in graph
    assert os.fsencode(os.getcwd()) not in graph


def changed(path, out, edit):
    """A copy of an archive with changed records; ``edit`` gives a record's new bytes, or None to leave it out."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        root = old.namelist()[0].split("/")[0]
        for name in old.namelist():
            data = edit(name.partition("/")[2], old.read(name))
            if data is not None:
                new.writestr(name, data)
        for name, data in (edit("", b"") or {}).items():
            new.writestr(f"{root}/{name}", data)
    return out


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("bomb",)


def in_graph(old, new):
    def edit(record, data):
        if record == "models/model.json":
            assert old in data
            return data.replace(old, new, 1)
        return data or None

    return edit


def with_record(name, data):
    return lambda record, old: {name: data} if record == "" else old


def pickled(record, data):
    if record == "data/sample_inputs/model.pt":
        buffer = io.BytesIO()
        torch.save(Bomb(), buffer)
        return buffer.getvalue()
    return data or None


ATTACKS = {
    "pickle": (pickled, "holds pickled objects besides tensors"),
    "legacy": (with_record("data/weights/model.pt", pickle.dumps(Bomb())), "holds a record 'data/weights/model.pt'"),
    "library": (with_record("data/aotinductor/model/a.so", b"\x7fELF"), "holds a record 'data/aotinductor"),
    "operator": (in_graph(b"torch.ops.aten.gelu.default", b"torch.hub.load"), "holds an operator 'torch.hub.load'"),
    "getattr": (in_graph(b"_operator.mul", b"_operator.methodcaller"), "holds an operator '_operator.methodcaller'"),
    "guard": (
        in_graph(b'"guards_code": [', b"\"guards_code\": [\"__import__('os').mkdir('bomb')\", "),
        "run as Python",
    ),
    "size": (in_graph(b'"expr_str": "', b"\"expr_str\": \"open('bomb','w') + "), "run as Python"),
    "enum": (in_graph(b'"guards_code"', b'"x": {"__enum__": true, "fqn": "os:x"}, "guards_code"'), "pickled objects"),
}


@pytest.mark.parametrize("kind", ATTACKS)
def test_a_program_that_might_run_code_is_refused_and_not_read(program, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    edit, message = ATTACKS[kind]
    path = changed(program[1].path, tmp_path / "bad.pt2", edit)
    with pytest.raises(WeightsError, match=message):
        load_encoder(path)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.pt2"]


def test_a_program_of_somebody_else_must_be_wrapped(program, tmp_path):
    path = changed(program[1].path, tmp_path / "x.pt2", lambda r, d: None if r == "extra/geossl.json" else d or None)
    with pytest.raises(WeightsError, match=r"not written by geossl export; wrap it"):
        read_program(path)


def test_damaged_programs_are_one_line(program, tmp_path):
    path = tmp_path / "cut.pt2"
    path.write_bytes(program[1].path.read_bytes()[:5000])
    with pytest.raises(WeightsError, match="is damaged or not a program"):
        load_encoder(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/b", b"")
    with pytest.raises(WeightsError, match="is not a program of torch.export"):
        vet(path)


@pytest.mark.parametrize(
    ("text", "is_plain"),
    [
        ("L['images'][0].size()[3] // 8 != 1", True),
        ("Mul(Integer(8), Symbol('s18', positive=True, integer=True))", True),
        ("s1*2", True),
        ("().__class__.__bases__", False),
        ("__import__('os')", False),
        ("[x for x in L]", False),
        ("torch.load('x')", False),
        ("lambda: 1", False),
        ("(", False),
    ],
)
def test_only_arithmetic_on_sizes_passes(text, is_plain):
    assert is_arithmetic(text) == is_plain


def test_an_encoder_without_such_a_form_says_which_have_one():
    assert PatchAutoencoder.is_rebuilt_from_spec
    with pytest.raises(WeightsError, match="cannot be exported; croma, galileo, presto"):
        Exportable(Plain(croma().spec))(torch.zeros(1, 2, 48, 48), torch.zeros(1, 12, 48, 48))


class Plain(CROMAEncoder):
    """An architecture the exporter does not know: positions by table."""

    def __init__(self, spec):
        super().__init__(spec)
        self.is_alibi = False
