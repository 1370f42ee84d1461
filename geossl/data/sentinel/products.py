"""Products that come as a folder of single-band files, such as ``LC08_L2SP_..._SR_B4.TIF``: files put into scenes."""

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import rasterio

from geossl.data.listing import folders_in, is_hidden
from geossl.errors import MissingBandError
from geossl.sensors import SENSORS, Product

DAY = re.compile(r"(?<!\d)(20\d{6}|20\d\d-\d\d-\d\d)(?!\d)")
DATE_TAGS = ("acquisition_date", "datetime", "date", "sensing_time", "start_datetime")  # what writers call it
SIZED = re.compile(r"R?[126]0m", re.IGNORECASE)  # folders R10m, R20m, R60m


@dataclass(frozen=True)
class SceneFiles:
    """The single-band files of one scene.

    Args:
        name: Of the scene.
        product: How they hold numbers.
        date: Day it was taken, ``YYYYMMDD``; empty if the name holds none.
        paths: By the name of the band in capitals, an alias replaced by the band it stands for.
    """

    name: str
    product: Product
    date: str
    paths: dict[str, Path]

    def bands(self, wanted: Sequence[str], sensor: str) -> list[Path]:
        """Files of bands.

        Raises:
            BandError: If one is missing.
        """
        if missing := [band for band in wanted if band not in self.paths]:
            text = f"scene {self.name} lacks {', '.join(missing)} for {sensor}; give all its files or their folder"
            raise MissingBandError(text, missing)
        return [self.paths[band] for band in wanted]


def scenes_of(paths: Sequence[Path], sensor: str) -> list[Path | SceneFiles]:
    """Files as what is read at once: scenes of single-band files, and other files as they are.

    Of a band in several pixel sizes the finest is taken.
    """
    found: dict[str, Path | SceneFiles] = {}
    for path in paths:
        known = SENSORS[sensor].product_of(path.name)
        if known is None:
            found[f"{path}:{len(found)}"] = path  # the same file twice stays there twice
            continue
        product, match = known
        key, scene = named_in(path, product, match)
        if key not in found:
            date = date_of(scene) if product.mixed else day(match["date"], product.date)
            found[key] = SceneFiles(scene, product, date, {})
        files, band = found[key], SENSORS[sensor].band(match["band"].upper())
        assert isinstance(files, SceneFiles)
        if band not in files.paths or (product.mixed and pixel_m(path, sensor) < pixel_m(files.paths[band], sensor)):
            files.paths[band] = path
    if not any(isinstance(one, SceneFiles) for one in found.values()):
        return list(found.values())
    return [whole_file(one) for one in found.values() if isinstance(one, SceneFiles) or not beside(one.name, sensor)]


def named_in(path: Path, product: Product, match: re.Match[str]) -> tuple[str, str]:
    """What tells the scene of a file from others, and its name."""
    if not product.mixed:
        return match["scene"].upper(), match["scene"].upper()
    place = path.parent.parent if SIZED.fullmatch(path.parent.name) else path.parent
    scene = match["scene"].strip("_.-")
    return f"{place}/{scene}/", scene or place.name


def pixel_m(path: Path, sensor: str) -> int:
    """Pixel size in a file's name; 0 where it holds none."""
    known = SENSORS[sensor].product_of(path.name)
    return int(known[1]["gsd"] or 0) if known and "gsd" in known[1].groupdict() else 0


def beside(name: str, sensor: str) -> bool:
    """Whether a file is one of a product's that is not read, such as its true-colour picture."""
    return any(p.beside and re.fullmatch(p.beside, name, re.IGNORECASE) for p in SENSORS[sensor].products)


def whole_file(one: Path | SceneFiles) -> Path | SceneFiles:
    """A file that has the name of a band, but holds several, as it is."""
    if not isinstance(one, SceneFiles) or not one.product.mixed or len(one.paths) > 1:
        return one
    (path,) = one.paths.values()
    try:
        with rasterio.open(path) as source:
            return one if source.count == 1 else path
    except rasterio.errors.RasterioError:
        return path  # whoever inspects it says what is wrong


def product_folders(path: Path, sensor: str) -> list[Path]:
    """The path itself; of a folder also the folders in it whose files are a product's, such as those of one scene.

    Of a Sentinel-2 product, ``.SAFE``, and of a folder of such, the folders with images.
    """
    if not os.path.isdir(path):
        return [path]
    if images := image_folders(path, sensor):
        return images
    product = SENSORS[sensor].product_of
    inner = []
    for folder in folders_in(path):
        images = image_folders(folder, sensor)
        inner += images or ([folder] if any(product(f.name) for f in folder.iterdir()) else [])
    direct = any(p.is_file() and not is_hidden(p.name) for p in path.iterdir())
    return [path, *inner] if direct or not inner else inner


def image_folders(path: Path, sensor: str) -> list[Path]:
    """Folders of images of a product as ESA delivers it; none if the path is not one."""
    images = sorted(path.glob("GRANULE/*/IMG_DATA"))
    folders = [folder for image in images for folder in (image, *folders_in(image))]
    product = SENSORS[sensor].product_of
    return [folder for folder in folders if any(product(f.name) for f in folder.iterdir())]


def day(text: str, form: str) -> str:
    """A date in a name as ``YYYYMMDD``; empty if it is not a date."""
    with suppress(ValueError):
        return f"{datetime.strptime(text, form):%Y%m%d}"
    return ""


def date_of(name: str) -> str:
    """The first day in a name, written ``YYYYMMDD`` or ``YYYY-MM-DD``, as ``YYYYMMDD``; empty if there is none."""
    for digits in DAY.findall(name):
        with suppress(ValueError):
            return f"{datetime.strptime(digits.replace('-', ''), '%Y%m%d'):%Y%m%d}"
    return ""


def stated_date(tags: Mapping[str, str]) -> str:
    """The day a raster's tags state as that of its acquisition; empty if none does.

    TIFF's own ``TIFFTAG_DATETIME`` is not among them: it is when the file was written.
    """
    found = {key.lower().removeprefix("geossl_"): value for key, value in tags.items()}
    return next((day for key in DATE_TAGS if (day := date_of(found.get(key, "")))), "")
