import numpy as np
import pytest
import torch

from geossl import recipe
from geossl.api.pretrain.run import prepare
from geossl.data.points.batches import augmented, cloud_source, rotation
from geossl.data.points.objects import drawn, read_objects, unit_sphere
from geossl.errors import InputError, MissingFileError, UnknownNameError
from tests.scans import scene, write_scan


def cube(n=50, seed=0):
    return np.random.default_rng(seed).uniform(3, 5, (n, 3))


def test_objects_come_from_folders_with_classes_and_a_split(tmp_path):
    for i, name in enumerate(("train/chair/a.npy", "train/table/b.xyz", "test/table/c.txt")):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".npy":
            np.save(path, cube(seed=i))
        else:
            np.savetxt(path, np.c_[cube(seed=i), np.ones(50)], delimiter="," if path.suffix == ".txt" else " ")
    shapes = read_objects(tmp_path)
    assert shapes.classes == ("chair", "table")
    found = {(shapes.classes[y], bool(t)): c for c, y, t in zip(shapes.clouds, shapes.labels, shapes.test, strict=True)}
    assert set(found) == {("chair", False), ("table", False), ("table", True)}
    np.testing.assert_allclose(found["table", True], cube(seed=2), atol=1e-9)


def test_shapenet_is_read_as_it_is_given_out(tmp_path):
    names = {"train": ["02691156-a1.npy", "03001627-b2.npy"], "test": ["02691156-c3.npy"]}
    (tmp_path / "shapenet_pc").mkdir()
    (tmp_path / "ShapeNet-55").mkdir()
    for part, files in names.items():
        (tmp_path / f"ShapeNet-55/{part}.txt").write_text("\n".join(files) + "\n")
        for i, name in enumerate(files):
            np.save(tmp_path / "shapenet_pc" / name, cube(seed=i).astype(np.float32))
    shapes = read_objects(tmp_path)
    assert shapes.classes == ("02691156", "03001627")
    assert shapes.labels.tolist() == [0, 1, 0]
    assert shapes.test.tolist() == [False, False, True]
    np.testing.assert_allclose(shapes.clouds[1], cube(seed=1), rtol=1e-6)
    data, _ = prepare(recipe.load("point_cmae/base", [f"data.source={tmp_path}", "data.batch_size=2"]))
    assert data.describe() == {"objects": 2}
    (tmp_path / "ShapeNet-55/test.txt").unlink()
    with pytest.raises(MissingFileError, match=r"test.txt does not exist; it lists the files"):
        read_objects(tmp_path)


def test_objects_are_read_when_they_are_drawn(tmp_path):
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", cube())
    shapes = read_objects(tmp_path)
    (tmp_path / "b.npy").write_bytes(b"broken")
    assert len(shapes.clouds) == 2
    with pytest.raises(InputError, match=r"b.npy is damaged"):
        shapes.clouds[1]


def test_a_set_of_test_objects_alone_teaches_nothing(tmp_path):
    (tmp_path / "test").mkdir()
    np.save(tmp_path / "test" / "a.npy", cube())
    with pytest.raises(InputError, match="holds test objects only"):
        cloud_source(tmp_path, 10, (), None, 0.0)


def test_objects_come_from_one_file_with_or_without_a_split(tmp_path):
    x = np.stack([cube(seed=i) for i in range(4)])
    np.savez(tmp_path / "a.npz", x_train=x[:3], y_train=[0, 1, 0], x_test=x[3:], y_test=[1], class_names=["p", "q"])
    shapes = read_objects(tmp_path / "a.npz")
    assert shapes.classes == ("p", "q")
    assert shapes.labels.tolist() == [0, 1, 0, 1]
    assert shapes.test.tolist() == [False] * 3 + [True]
    np.savez(tmp_path / "b.npz", x=x)
    plain = read_objects(tmp_path / "b.npz")
    assert plain.classes == ()
    assert len(plain.clouds) == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"z": np.zeros(3)}, "holds z; expected x"),
        ({"x": np.zeros((2, 5, 2))}, "object 0 has shape"),
        ({"x": np.full((2, 5, 3), np.nan)}, "not finite"),
        ({"x": np.zeros((2, 5, 3)), "y": [0]}, "2 objects but 1 labels"),
        ({"x": np.zeros((2, 5, 3)), "y": [0, 4], "class_names": ["a"]}, "labels reach from 0 to 4"),
        ({"x": np.array([{}], dtype=object)}, "holds Python objects"),
    ],
)
def test_a_file_that_does_not_hold_objects_is_refused(tmp_path, values, message):
    np.savez(tmp_path / "bad.npz", **values)
    with pytest.raises(InputError, match=message):
        read_objects(tmp_path / "bad.npz")


def test_missing_and_unreadable_objects_are_named(tmp_path):
    with pytest.raises(MissingFileError, match="'nowhere' is neither a folder"):
        read_objects("nowhere")
    with pytest.raises(InputError, match="holds no point sets"):
        read_objects(tmp_path)
    (tmp_path / "a.xyz").write_text("1 2 three\n")
    with pytest.raises(InputError, match=r"a.xyz cannot be read as a table"):
        read_objects(tmp_path)


def test_drawn_objects_touch_the_unit_sphere_and_have_their_centre_at_the_origin():
    cloud = drawn(cube(), 30, np.random.default_rng(0))
    assert cloud.shape == (30, 3)
    assert np.linalg.norm(cloud, axis=1).max() == pytest.approx(1, abs=1e-6)
    assert np.abs(cloud.mean(0)).max() < 1e-6
    np.testing.assert_allclose(unit_sphere(7 * cube() + 100), unit_sphere(cube()), atol=1e-5)


def test_rotations_keep_shapes_and_those_around_the_vertical_keep_heights():
    rng, x = np.random.default_rng(0), cube()
    turned = [rotation(rng, "all") for _ in range(200)]
    assert all(np.allclose(r @ r.T, np.eye(3)) and np.linalg.det(r) == pytest.approx(1) for r in turned)
    assert np.abs(np.mean(turned, axis=0)).max() < 0.15
    flat = augmented(np.c_[x, np.arange(50)], rng, "z", (1.0, 1.0), False, 0.0, 0.0)
    np.testing.assert_allclose(flat[:, 2], x[:, 2], rtol=1e-6)
    np.testing.assert_allclose(flat[:, 3], np.arange(50))
    np.testing.assert_allclose(np.linalg.norm(flat[:, :2], axis=1), np.linalg.norm(x[:, :2], axis=1), rtol=1e-6)
    moved = augmented(x, rng, "none", (2.0, 2.0), False, 0.0, 0.0)
    np.testing.assert_allclose(moved, 2 * x, rtol=1e-6)


def test_batches_are_the_same_for_a_seed_and_go_on_where_a_run_stopped(tmp_path):
    write_scan(tmp_path / "a.laz", *scene())
    loaded = recipe.load("point_cmae", [f"data.source={tmp_path}", "data.batch_size=2", "train.max_steps=4"])
    (one, _), (two, _) = prepare(loaded), prepare(loaded)
    batches = [batch["points"] for batch in one.train_dataloader()]
    two.start_step = 2
    rest = [batch["points"] for batch in two.train_dataloader()]
    assert [b.shape for b in batches] == [(2, 512, 5)] * 4
    assert all(torch.equal(a, b) for a, b in zip(batches[2:], rest, strict=True))
    assert not torch.equal(batches[0], batches[1])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (["data.block_m=null"], InputError, "holds airborne scans; set data.block_m"),
        (["data.source=NPZ"], InputError, "holds whole objects, not a scan; use data.block_m=null"),
        (["data.source=NPZ", "data.block_m=null"], InputError, r"use encoder.features=\[\]"),
        (["data.source=nowhere"], MissingFileError, "'nowhere' does not exist; give a .laz"),
        (["data.source=nowhere.laz"], MissingFileError, "nowhere.laz"),
        (["data.block_m=0.5", "data.min_points=60"], InputError, r"no block of 0.5 m has data.min_points=60"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_refused(tmp_path, changes, error, message):
    np.savez(tmp_path / "o.npz", x=cube()[None])
    write_scan(tmp_path / "thin" / "s.laz", *scene(n=300))
    changes = [c.replace("NPZ", str(tmp_path / "o.npz")) for c in changes]
    with pytest.raises(error, match=message):
        prepare(recipe.load("point_cmae", [f"data.source={tmp_path / 'thin'}", *changes]))


def test_an_unknown_feature_is_named():
    with pytest.raises(UnknownNameError, match="did you mean 'intensity'"):
        cloud_source("sample", 10, ("intensty",), None, 0.0)


def test_every_object_is_drawn_once_before_any_comes_again(tmp_path):
    for i in range(7):
        path = tmp_path / "train" / "chair" / f"{i}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.random.default_rng(i).normal(size=(16, 3)))
    source, clouds = cloud_source(tmp_path, 16, (), None, 0.0), {}
    for seed in (0, 1):
        drawn_ones = [source.draw(np.random.default_rng(0), number, seed) for number in range(14)]
        clouds[seed] = [tuple(sorted(map(tuple, np.round(c, 6)))) for c in drawn_ones]
        first, second = clouds[seed][:7], clouds[seed][7:]
        assert len(set(first)) == 7
        assert set(first) == set(second)
        assert first != second
    assert clouds[0] != clouds[1]
