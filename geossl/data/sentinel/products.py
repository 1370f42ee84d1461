"""Products that come as a folder of single-band files, such as ``LC08_L2SP_..._SR_B4.TIF``: files put into scenes."""

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from geossl.data.listing import folders_in, is_hidden
from geossl.errors import BandError
from geossl.sensors import SENSORS, Product

DAY = re.compile(r"(?<!\d)(20\d{6}|20\d\d-\d\d-\d\d)(?!\d)")
DATE_TAGS = ("acquisition_date", "datetime", "date", "sensing_time", "start_datetime")  # what writers call it


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
            raise BandError(
                f"scene {self.name} lacks {', '.join(missing)} for {sensor}; give all its files or their folder"
            )
        return [self.paths[band] for band in wanted]


def scenes_of(paths: Sequence[Path], sensor: str) -> list[Path | SceneFiles]:
    """Files as what is read at once: scenes of single-band files, and other files as they are."""
    found: dict[str, Path | SceneFiles] = {}
    for path in paths:
        known = SENSORS[sensor].product_of(path.name)
        if known is None:
            found[f"{path}:{len(found)}"] = path  # the same file twice stays there twice
            continue
        product, match = known
        scene, band = match["scene"].upper(), match["band"].upper()
        if scene not in found:
            found[scene] = SceneFiles(scene, product, day(match["date"], product.date), {})
        files = found[scene]
        assert isinstance(files, SceneFiles)
        files.paths.setdefault(SENSORS[sensor].band(band), path)
    return list(found.values())


def product_folders(path: Path, sensor: str) -> list[Path]:
    """The path itself; of a folder also the folders in it whose files are a product's, such as those of one scene."""
    if not os.path.isdir(path):
        return [path]
    product = SENSORS[sensor].product_of
    inner = [d for d in folders_in(path) if any(product(f.name) for f in d.iterdir())]
    direct = any(p.is_file() and not is_hidden(p.name) for p in path.iterdir())
    return [path, *inner] if direct or not inner else inner


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
