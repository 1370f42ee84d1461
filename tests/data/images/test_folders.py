import numpy as np
import pytest
from PIL import Image

from geossl.data.images.folders import ImageFolder
from geossl.errors import InputError


@pytest.fixture
def folder(tmp_path):
    for name, value in (("b/2.png", 51), ("b/1.PNG", 102), ("a/x.tif", 255)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 5, 3), value, np.uint8)).save(path)
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    return tmp_path


def test_classes_are_folders_and_values_are_0_to_1(folder):
    pictures = ImageFolder(folder, labelled=True)
    assert pictures.classes == ["a", "b"]
    assert pictures.labels.tolist() == [0, 1, 1]
    assert [float(pictures[i].mean()) for i in range(3)] == pytest.approx([1.0, 0.4, 0.2])
    assert pictures[0].shape == (3, 4, 5)


def test_without_classes_folders_do_not_matter(folder):
    assert len(ImageFolder(folder)) == 3
    assert ImageFolder(folder).classes == []


def test_bad_folders_are_one_line(folder):
    with pytest.raises(InputError, match="does not exist"):
        ImageFolder(folder / "none")
    with pytest.raises(InputError, match="does not hold a folder of pictures per class"):
        ImageFolder(folder / "b", labelled=True)
    (folder / "b" / "bad.png").write_text("x")
    with pytest.raises(InputError, match="cannot be read as a picture"):
        ImageFolder(folder)[3]
