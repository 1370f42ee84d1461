import json
import os
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import pytest
import rasterio
import torch
from click.testing import CliRunner
from shapely.geometry import box, mapping

from geossl.cli import main
from geossl.inference.engine import workers
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.files import save_encoder
from geossl.sensors import S2_BANDS
from tests.data.conftest import optical, radar, write_raster

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "geossl/data/sample"
TAGGED = {"names": S2_BANDS, "BOA_ADD_OFFSET": "0"}


def geossl(*arguments, cwd="."):
    """Run a command in this process, which saves importing torch each time."""
    with chdir(cwd):
        return CliRunner().invoke(main, [str(a) for a in arguments])


def refused(result, *words):
    """Bad input: exit code 2, one line on stderr, no traceback."""
    assert result.exit_code == 2, result.output
    lines = [
        line
        for line in result.stderr.splitlines()
        if line.strip() and not line.startswith(("embed  ", "geossl: note: "))
    ]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("geossl: ")
    for word in words:
        assert word in lines[0], lines[0]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("encoder") / "e.safetensors"
    save_encoder(path, CROMAEncoder(croma_spec("tiny", window_px=64, margin_px=16, dim=32, depth=2, heads=8)), {})
    return path


@pytest.fixture
def place(tmp_path):
    write_raster(tmp_path / "s1.tif", radar())
    write_raster(tmp_path / "s2.tif", optical(), **TAGGED)
    write(tmp_path / "aoi.geojson", box(3.001, 41.5455, 3.012, 41.5515))
    return tmp_path


def write(path, *geometries, **members):
    features = [{"type": "Feature", "properties": {}, "geometry": mapping(g)} for g in geometries]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features, **members}))


def embed(place, file, **changes):
    options = {"aoi": "aoi.geojson", "s1": "s1.tif", "s2": "s2.tif", "encoder": file, "out": "out.zarr", **changes}
    given = [part for key, value in options.items() if value is not None for part in (f"--{key}", value)]
    return geossl("embed", *given, cwd=place)


def test_help_does_not_import_torch():
    code = "import sys; from geossl.cli import main; main(['--help'])"
    code = f"import sys\ntry:\n    {code}\nfinally:\n    print('torch' in sys.modules, 'numpy' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout
    assert out.strip().endswith("False False")
    assert out.index("pretrain") < out.index("embed")


def test_import_geossl_is_light_and_its_names_are_few():
    code = "import sys, geossl; print('torch' in sys.modules, len(geossl.__all__), 'open' in dir(geossl))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout
    assert out == "False 25 True\n"


def test_pretrain_then_embed_on_the_bundled_scenes(tmp_path):
    small = ["train.max_steps=3", "data.batch_size=4", "probe.every_steps=0", f"out={tmp_path}/run"]
    made = geossl("pretrain", "croma", *small)
    assert made.exit_code == 0, made.stderr
    assert made.stdout.splitlines()[1] == f"encoder  {tmp_path}/run/encoder.safetensors"
    assert "images/s" in made.stderr
    sensors = ["--s1", SAMPLE / "s1", "--s2", SAMPLE / "s2", "--encoder", tmp_path / "run/encoder.safetensors"]
    mapped = geossl("embed", "--aoi", ROOT / "examples/region.geojson", *sensors, "--out", tmp_path / "m.tif")
    assert mapped.exit_code == 0, mapped.stderr
    with rasterio.open(tmp_path / "m.tif") as file:
        assert (file.count, file.crs.to_epsg(), file.res) == (128, 32718, (80, 80))
        assert 700 < (file.dataset_mask() > 0).sum() <= 28 * 28
    assert (tmp_path / "m.png").exists()


def test_list_and_print():
    assert "    croma/base            CROMA base (194 M parameters)" in geossl("list").stdout
    assert "max_steps: 7" in geossl("pretrain", "croma", "train.max_steps=7", "--print").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["croma", "train.max_step=3"], ["train.max_step=3", "did you mean 'max_steps'"]),
        (["croma", "train.max_steps=x"], ["train.max_steps = 'x'", "valid integer"]),
        (["nowhere.yaml"], ["nowhere.yaml", "does not exist"]),
        (["cromaa"], ["did you mean 'croma'"]),
        (["croma", "data.source=/no/such/folder"], ["/no/such/folder", "s1/*.tif"]),
        (["croma", "data.chip_px=232", "data.crop_px=null"], ["no scene holds a chip of 232 px"]),
        ([], ["RECIPE"]),
    ],
)
def test_pretrain_refuses_bad_input_and_writes_nothing(tmp_path, arguments, words):
    refused(geossl("pretrain", *arguments, cwd=tmp_path), *words)
    assert not list(tmp_path.iterdir())


def out_of_place(place):
    write(place / "aoi.geojson", box(10, 50, 10.01, 50.01))
    return {}


def region(*geometries, **members):
    def change(place):
        write(place / "aoi.geojson", *geometries, **members)
        return {}

    return change


def raster(name, data, **settings):
    def change(place):
        write_raster(place / name, data(), **settings)
        return {}

    return change


def all_nodata(place):
    write_raster(place / "s2.tif", optical() * 0, **TAGGED)
    return {"s1": None}


def text(name, content):
    def change(place):
        (place / name).write_bytes(content)
        return {"encoder": name} if name.endswith((".pt", ".safetensors")) else {}

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: {"aoi": "none.geojson"}, ["--aoi file 'none.geojson' does not exist"]),
        (lambda p: {"s1": "none.tif"}, ["--s1 file 'none.tif' does not exist"]),
        (lambda p: {"s1": None, "s2": None}, ["no pixels asked for"]),
        (lambda p: {"encoder": "none.safetensors"}, ["'none.safetensors' does not exist"]),
        (lambda p: {"encoder": "croma_bas"}, ["did you mean 'croma_base'"]),
        (lambda p: {"out": "map.png"}, ["must end in .zarr or .tif"]),
        (lambda p: {"out": "/proc/none/map.zarr"}, ["cannot be written"]),
        (lambda p: {"scheduler": "slurm"}, ["--scheduler 'slurm' is not known"]),
        (lambda p: {"scheduler": "tcp://127.0.0.1:9"}, ["does not answer"]),
        (lambda p: {"dtype": "int4"}, ["--dtype", "int4"]),
        (lambda p: {"batch-size": "0"}, ["--batch-size", "0"]),
        (region(), ["holds no feature"]),
        (region(box(3, 41, 3.1, 41.1).centroid), ["expected polygons only"]),
        (region(box(500_000, 4.5e6, 501_000, 4.6e6)), ["not longitude and latitude"]),
        (out_of_place, ["lies outside the rasters"]),
        (text("aoi.geojson", b"{}"), ["not GeoJSON"]),
        (raster("s1.tif", radar, epsg=None), ["s1.tif has no CRS"]),
        (raster("s2.tif", lambda: optical()[:4], BOA_ADD_OFFSET="0"), ["has 4 bands", "s2 has B01"]),
        (raster("s1.tif", lambda: radar()[::-1]), ["darker than band 2", "swap"]),
        (raster("s2.tif", optical, names=S2_BANDS), ["+1000", "--s2-offset"]),
        (all_nodata, ["holds no valid pixel"]),
        (text("w.pt", b"PK\x03\x04 cut"), ["w.pt is damaged"]),
        (text("w.safetensors", b"\x00" * 30), ["w.safetensors is damaged"]),
        (text("w.pt", b"cos\nsystem\n(S'touch hacked'\ntR."), ["it was not run"]),
    ],
)
def test_embed_refuses_bad_input_and_writes_nothing(place, encoder, change, words, monkeypatch):
    monkeypatch.setattr(workers, "ANSWER_S", 1.0)
    changes = change(place)
    before = sorted(os.listdir(place))
    refused(embed(place, encoder, **changes), *words)
    assert sorted(os.listdir(place)) == before


def test_a_sensor_without_a_usable_pixel_is_left_out_and_named(place, encoder):
    write_raster(place / "s2.tif", optical() * 0, **TAGGED)
    done = embed(place, encoder)
    assert done.exit_code == 0
    assert "geossl: note: s2 has no valid pixel in --aoi aoi.geojson; the other sensor answers alone" in done.stderr


def test_a_dry_run_prints_and_writes_nothing(place, encoder):
    before = sorted(os.listdir(place))
    arguments = ["--aoi", "aoi.geojson", "--s1", "s1.tif", "--s2", "s2.tif", "--encoder", encoder, "--out", "o.zarr"]
    done = geossl("embed", *arguments, "--dry-run", cwd=place)
    assert done.exit_code == 0, done.stderr
    keys = [line.split()[0] for line in done.stdout.splitlines()]
    assert {"area_km2", "shards", "read_mb", "write_mb", "memory_per_worker_gb", "encode_seconds"} <= set(keys)
    assert sorted(os.listdir(place)) == before


def test_another_plan_for_the_same_output_is_refused(place, encoder):
    assert embed(place, encoder).exit_code == 0
    refused(embed(place, encoder, precision="bf16"), "was started with another precision")


def test_a_finished_map_asked_for_again_is_known_without_torch(place, encoder, monkeypatch):
    assert embed(place, encoder).exit_code == 0

    def again(**_):
        raise RuntimeError("the long way")

    monkeypatch.setattr("geossl.api.embed.embed_map", again)
    done = embed(place, encoder)
    assert (done.exit_code, done.stdout) == (0, "embedding  out.zarr\npicture    out.png\n")
    assert embed(place, encoder, **{"batch-size": 3}).exit_code == 1  # not the same question
    for path in (place / "aoi.geojson", place / "s2.tif", place / "out.zarr" / "zarr.json", place / "out.png"):
        before = path.stat()
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        assert embed(place, encoder).exit_code == 1, path
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert embed(place, encoder).exit_code == 0
    next(path for path in (place / "out.zarr").rglob("c/**/0") if path.is_file()).unlink()
    assert embed(place, encoder).exit_code == 1  # a shard is lost, which the long way makes anew


def test_the_short_way_imports_neither_torch_nor_numpy(place, encoder):
    options = ["--aoi", "aoi.geojson", "--s1", "s1.tif", "--s2", "s2.tif", "--encoder", str(encoder)]
    assert geossl("embed", *options, cwd=place).exit_code == 0
    code = f"from geossl.cli import main\ntry:\n    main({['embed', *options]})\nfinally:\n    import sys\n"
    code += "    print('torch' in sys.modules, 'numpy' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=place).stdout
    assert out == "embedding  embedding.zarr\npicture    embedding.png\nFalse False\n"
