"""What maps say of themselves: STAC documents and the attributes of stores, against published schemas."""

import json

import jsonschema
import numpy as np
import pystac
import pytest
import rioxarray  # noqa: F401  (adds .rio)
import shapely
import xarray as xr
import zarr
import zarr_cm
from odc.geo.geobox import GeoBox
from pystac.validation.local_validator import get_local_schema_cache

import geossl
from geossl.errors import InputError, Note
from geossl.inference.engine import conventions
from geossl.inference.engine.run import embed_map
from geossl.inference.outputs import stac
from geossl.inference.outputs.geoparquet import to_degrees
from geossl.models.files import read_encoder, save_encoder
from tests.inference.conftest import Known, Memory
from tests.schemas import REGISTRY, Resource, check

CORE = "https://schemas.stacspec.org/v1.0.0/{0}-spec/json-schema/{0}.json"
LATEST = REGISTRY.with_resources((url, Resource.from_contents(s)) for url, s in get_local_schema_cache().items())


def read(folder):
    return {p.name: json.loads(p.read_text()) for p in folder.iterdir()}


def check_all(documents):
    """Core schema and every extension a document names; a document of STAC 1.1 by pystac's copy of it."""
    for document in documents.values():
        kind = {"Feature": "item", "Collection": "collection", "Catalog": "catalog"}[document["type"]]
        if kind == "catalog":  # of which the two versions ask the same
            document = document | {"stac_version": "1.1.0"}
        if document["stac_version"] == "1.0.0":
            check(document, CORE.format(kind))
        else:
            url = CORE.format(kind).replace("1.0.0", document["stac_version"])
            jsonschema.Draft7Validator(LATEST.contents(url), registry=LATEST).validate(document)
        for url in document.get("stac_extensions", ()):
            check(document, url)


def test_documents_are_valid_and_lead_to_the_map(place, croma_file, tmp_path):
    folder = geossl.export(place / "m.zarr", tmp_path / "stac", encoder=croma_file)
    documents = read(folder)
    assert sorted(documents) == ["catalog.json", "collection.json", "croma_tiny.json", "m.json"]
    check_all(documents)
    item, collection, model = documents["m.json"], documents["collection.json"], documents["croma_tiny.json"]
    geobox = geossl.open(place / "m.zarr").odc.geobox
    read_item = pystac.Item.from_dict(item)
    assert (folder / read_item.assets["embeddings"].href).resolve() == (place / "m.zarr").resolve()
    assert (read_item.common_metadata.start_datetime.year, read_item.common_metadata.end_datetime.year) == (2016, 2019)
    assert item["properties"]["geossl:inputs"] == ["S1_A", "S2_B"]
    assert item["properties"]["proj:code"] == "EPSG:32631"
    assert item["properties"]["proj:shape"] == list(geobox.shape)
    assert item["properties"]["proj:transform"] == list(geobox.transform)[:6]
    assert collection["extent"]["spatial"]["bbox"] == [pytest.approx(item["bbox"])]
    assert (collection["emb:dimensions"], collection["data_type"], collection["gsd"]) == (32, "int8", 80)
    assert [len(i["bands"]) for i in model["properties"]["mlm:input"]] == [2, 12]
    assert (folder / model["assets"]["weights"]["href"]).resolve() == croma_file.resolve()
    for document in documents.values():
        for link in document["links"]:
            assert link["href"].startswith("https://") or (folder / link["href"]).exists()


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("m.json", ["assets"], {}),
        ("m.json", ["properties", "proj:shape"], "big"),
        ("m.json", ["properties", "datetime"], 2016),
        ("collection.json", ["emb:type"], "image"),
        ("collection.json", ["extent"], None),
        ("croma_tiny.json", ["properties", "mlm:input"], "none"),
        ("croma_tiny.json", ["bbox"], "everywhere"),
    ],
)
def test_the_schemas_notice_what_is_wrong(place, croma_file, tmp_path, name, path, value):
    document = read(geossl.export(place / "m.zarr", tmp_path / "stac", encoder=croma_file))[name]
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        check_all({name: document})


def test_a_map_of_several_zones_is_one_collection(place, region, croma_file, tmp_path):
    folder = tmp_path / "wide"
    folder.mkdir()
    for zone in ("utm31n", "utm32n"):
        embed_map(region, Known(), croma_file, folder / f"{zone}.zarr", shard_cells=3)
    documents = read(geossl.export(folder, tmp_path / "stac", encoder=croma_file))
    check_all(documents)
    collection = documents["collection.json"]
    assert [link["href"] for link in collection["links"] if link["rel"] == "item"] == ["./utm31n.json", "./utm32n.json"]
    assert len(collection["extent"]["spatial"]["bbox"]) == 3  # of all, then of each


def test_a_map_alone_is_described_with_its_licence_and_without_dates(region, croma_file, tmp_path):
    (undated,) = embed_map(region, Memory(), croma_file, tmp_path / "u.zarr", shard_cells=3)
    with pytest.warns(Note, match="does not know the date of its inputs"):
        documents = read(geossl.export(undated, tmp_path / "stac", licence="CC-BY-4.0"))
    check_all(documents)
    assert sorted(documents) == ["catalog.json", "collection.json", "u.json"]
    assert documents["collection.json"]["license"] == "CC-BY-4.0"
    properties = documents["u.json"]["properties"]
    assert properties["geossl:dates"].startswith("unknown")
    assert properties["start_datetime"] < properties["end_datetime"]
    root = pystac.Catalog.from_file(tmp_path / "stac" / "catalog.json")
    assert [item.id for item in root.get_items(recursive=True)] == ["u"]


def test_what_stac_cannot_describe_is_refused(place, croma_file, tmp_path):
    other = tmp_path / "other.safetensors"
    save_encoder(other, read_encoder(croma_file), {"note": "another file"})
    (tmp_path / "none").mkdir()
    for path, encoder, words in (
        (place / "m.zarr", other, r"encoder croma_tiny, .* is not the one .* was made with"),
        (tmp_path / "none", croma_file, "is not a .zarr map"),
    ):
        with pytest.raises(InputError, match=words):
            geossl.export(path, tmp_path / "stac", encoder=encoder)
    with pytest.raises(InputError, match="is not an SPDX identifier"):
        geossl.export(place / "m.zarr", tmp_path / "stac", licence="free for all!")
    assert not (tmp_path / "stac").exists()


def test_a_box_across_the_antimeridian_starts_in_the_east():
    grid = GeoBox.from_bbox((160_000, 0, 172_000, 8000), "EPSG:32601", resolution=80)  # 180 degrees: x = 166021 m
    (outline,) = to_degrees(np.array([grid.extent.geom]), grid)
    west, _, east, _ = stac.outline_and_box(outline)["bbox"]
    assert 179.9 < west < 180
    assert -180 < east < -179.9


CONVENTION = {  # the fields the geoemb convention demands of a map of patches, in our own words
    "type": "object",
    "required": [
        "zarr_conventions",
        *(f"geoemb:{n}" for n in ("type", "dimensions", "model", "source_data", "data_type", "chip_layout")),
    ],
    "properties": {
        "geoemb:type": {"const": "chip"},
        "geoemb:dimensions": {"type": "integer", "minimum": 1},
        "geoemb:model": {"type": "string", "pattern": "^(https|urn):"},
        "geoemb:source_data": {"type": "array", "minItems": 1, "items": {"type": "string", "pattern": "^https:"}},
        "geoemb:gsd": {"type": "number", "exclusiveMinimum": 0},
        "geoemb:chip_layout": {
            "required": ["layout_type", "chip_size"],
            "properties": {"layout_type": {"enum": ["regular_grid", "irregular"]}, "chip_size": {}, "stride": {}},
            "additionalProperties": False,
        },
        "geoemb:quantization": {
            "required": ["method", "original_dtype"],
            "properties": {
                "method": {},
                "original_dtype": {},
                "quantized_dtype": {},
                "scale": {
                    "required": ["type", "array_name"],
                    "properties": {"type": {"const": "array"}, "array_name": {}, "nodata": {}},
                    "additionalProperties": False,
                },
            },
            "additionalProperties": False,
        },
    },
}


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
def test_a_store_speaks_the_conventions(region, croma_file, tmp_path, monkeypatch, dtype):
    monkeypatch.setattr("geossl.inference.engine.overviews.LEAST", 16)
    monkeypatch.setattr("geossl.inference.engine.overviews.BLOCK", 8)
    (path,) = embed_map(region, Known(), croma_file, tmp_path / "m.zarr", shard_cells=3, dtype=dtype)
    root = zarr.open_group(str(path), mode="r")
    found = dict(root.attrs)
    jsonschema.validate(found, CONVENTION)
    declared = next(c for c in found["zarr_conventions"] if c["uuid"].startswith("61c12cc5"))
    assert (declared["name"], declared["spec_url"]) == ("geoemb:", conventions.GEOEMB["spec_url"])
    assert (found["geoemb:dimensions"], found["geoemb:gsd"], found["geoemb:data_type"]) == (32, 80, dtype)
    assert ("geoemb:quantization" in found) == (dtype == "int8")
    if dtype == "int8":
        assert found["geoemb:quantization"]["scale"]["array_name"] in root
    levels = {"": root, "1": root["overviews/1"], "2": root["overviews/2"]}
    for level, group in levels.items():
        grid = geossl.open(path, level=int(level or 0)).odc.geobox
        layers = [array for _, array in group.arrays() if array.ndim > 1]
        assert len(layers) >= 1
        for node in (group, *layers):
            for convention in (zarr_cm.proj, zarr_cm.spatial):
                _, values = convention.extract(dict(node.attrs))
                convention.validate(values)
            assert node.attrs["proj:code"] == "EPSG:32631"
            assert node.attrs["spatial:transform"] == list(grid.transform)[:6]
            assert node.attrs["spatial:shape"] == list(grid.shape)
            assert node.attrs["spatial:bbox"] == list(grid.boundingbox.bbox)


def test_xarray_and_rioxarray_find_the_grid(place):
    data = xr.open_zarr(place / "m.zarr", decode_coords="all")
    grid = geossl.open(place / "m.zarr").odc.geobox
    for name in ("embeddings", "scales", "valid", "sensors", "date"):
        assert data[name].rio.crs.to_epsg() == 32631
        assert data[name].rio.transform() == grid.transform
        assert data[name].dims[-2:] == ("y", "x")
        assert data[name].odc.geobox == grid
    assert data["sensors"].attrs["flag_masks"] == [1, 2, 4]
    dates = np.unique(data["date"].values[data["sensors"].values & 2 > 0]).astype("datetime64[D]")
    assert dates.tolist() == [np.datetime64("2000-01-01") + 6000, np.datetime64("2000-01-01") + 7000]


class Listed(Known):
    """From a catalogue with an API."""

    def describe(self):
        scenes = {name: [{**values[0], "collection": "c"}] for name, values in super().describe().items()}
        return {"catalog": "https://example.org/stac/", **scenes}


def test_scenes_of_an_api_are_linked(region, croma_file, tmp_path):
    embed_map(region, Listed(), croma_file, tmp_path / "m.zarr", shard_cells=3)
    documents = read(geossl.export(tmp_path / "m.zarr", tmp_path / "stac", encoder=croma_file))
    check_all(documents)
    links = [link["href"] for link in documents["m.json"]["links"] if link["rel"] == "emb:source-data"]
    assert links == [f"https://example.org/stac/collections/c/items/{name}" for name in ("S1_A", "S2_B")]


class Atlas(Known):
    """Knows scenes of other places, too."""

    def describe(self):
        here, there = shapely.box(2.9, 41, 3.2, 42), shapely.box(-72, -39, -71, -38)
        (first,), (second,) = super().describe().values()
        far = {"id": "S2_FAR", "day": "2001-01-01", "footprint": there.wkb_hex}
        return {"s1": [{**first, "footprint": here.wkb_hex}], "s2": [{**second, "footprint": here.wkb_hex}, far]}


def test_scenes_of_other_places_are_no_inputs(region, croma_file, tmp_path):
    embed_map(region, Atlas(), croma_file, tmp_path / "m.zarr", shard_cells=3)
    item = read(geossl.export(tmp_path / "m.zarr", tmp_path / "stac", encoder=croma_file))["m.json"]
    assert item["properties"]["geossl:inputs"] == ["S1_A", "S2_B"]
    assert item["properties"]["start_datetime"].startswith("2016")
