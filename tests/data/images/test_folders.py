import numpy as np
import pytest
from PIL import Image

from geossl.data.images.folders import ImageFolder, read_image
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
    with pytest.raises(InputError, match="does not hold a folder of images per class"):
        ImageFolder(folder / "b", labelled=True)
    (folder / "b" / "bad.png").write_text("x")
    with pytest.raises(InputError, match="cannot be read as an image"):
        ImageFolder(folder)[3]


def test_images_are_turned_as_their_camera_says(tmp_path):
    (tmp_path / "a").mkdir()
    image = Image.new("RGB", (4, 2))
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[274] = 6  # to be shown turned by a quarter
    image.save(tmp_path / "a" / "0.png", exif=exif)
    pixels = ImageFolder(tmp_path)[0]
    assert pixels.shape == (3, 4, 2)
    assert pixels[0].argmax() == 1  # the upper left corner is now the upper right one


def test_what_would_be_cut_at_255_or_is_one_of_several_is_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 3000, np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "float.tif")
    red, blue = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    red.save(tmp_path / "pages.tif", save_all=True, append_images=[blue])
    red.save(tmp_path / "moving.webp", save_all=True, append_images=[blue])
    for name, message in (
        ("deep.png", "more than 8 bits"),
        ("float.tif", "more than 8 bits"),
        ("pages.tif", "holds several images"),
        ("moving.webp", "holds several images"),
    ):
        with pytest.raises(InputError, match=message):
            read_image(tmp_path / name)


def test_a_small_file_of_a_huge_image_is_refused(tmp_path):
    Image.new("1", (10_000, 10_000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 100_000
    with pytest.raises(InputError, match=r"is 10000 x 10000 px; expected at most"):
        read_image(tmp_path / "bomb.png")
