"""GEO-Bench 2 by name, ``geobench2:benv2``, through its own library, ``geobenchv2``.

That reads the container files (``.tortilla``) and gives stored numbers; units, and what its names have wrong, are in
``geobench2_sets``. A part of a container may be in any format that GDAL knows, so parts are looked at before they are
opened: only TIFF and HDF5 that hold their own pixels are.
"""

import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor
from torch.utils.data import ConcatDataset

from geossl.data.datasets.base import ClassificationDataset, MapParts, Places, SegmentationDataset, of_degrees
from geossl.data.datasets.geobench2_sets import REFUSED, SETS, Layers, Source
from geossl.data.datasets.torchgeo import official, part_numbers
from geossl.data.mapped import Mapped
from geossl.errors import InputError, MissingFileError, Note, UnknownNameError, needs
from geossl.models.encoder import Items

PREFIX, ROOT = "geobench2:", "data/geobench2"
PARTS = ("train", "validation", "test")
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
HDF5 = b"\x89HDF\r\n\x1a\n"
INSIDE = re.compile(r"/vsisubfile/(\d+)_(\d+),(.+)")


def geobench2_set(name: str, root: str | Path | None) -> ClassificationDataset | SegmentationDataset:
    """A set of GEO-Bench 2 with its official parts.

    Args:
        name: ``geobench2:benv2``.
        root: Folder with its files as published (``geobench_benv2.tortilla``), or with a folder of its name that has
            them; ``data/geobench2`` by default.

    Raises:
        UnknownNameError: If there is no such set.
        InputError: If geossl does not read it, or its files are damaged.
        MissingExtraError: If ``geobenchv2`` is not installed.
        MissingFileError: If it is not there.
    """
    title, _, partition = name.removeprefix(PREFIX).partition(":")
    title = title.lower()
    if title in REFUSED:
        raise InputError(f"{PREFIX}{title} is not read: {REFUSED[title]}; geossl list data has what is")
    if title not in SETS:
        raise UnknownNameError("set of GEO-Bench 2", title, SETS)
    if partition:
        raise InputError(
            f"{name}: GEO-Bench 2 has no partition {partition!r}, only training, validation and test; for fewer labels "
            "use --label-fractions 0.1"
        )
    source = SETS[title]
    kind = library_class(source.kind)
    sets = [opened(title, kind, Path(root or ROOT), part) for part in PARTS]
    if source.note:
        warnings.warn(f"{PREFIX}{title}: {source.note}", Note, stacklevel=2)
    sensors = {name: layers.bands for name, layers in source.layers.items()}
    about = {"benchmark": "GEO-Bench 2", "note": source.note}
    names = tuple(map(str, getattr(kind, "classes", ())))[source.first : source.classes]
    items = [Mapped(range(len(data)), Samples(title, data, len(names))) for data in sets]
    if source.task != "classify":
        classes = names if source.task == "segment" else ()
        return SegmentationDataset(title, official(MapParts(*items)), classes, sensors, about)
    labels = np.concatenate([labels_of(title, data, names) for data in sets])
    places = places_of(sets)
    images: Items = ConcatDataset(items)
    part = part_numbers(sets)
    return ClassificationDataset(title, images, labels, names, sensors, part, places, source.gsd_m, about)


def library_class(name: str) -> Any:
    """A class of the library.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        import geobench_v2.datasets  # lazy: an extra, and heavy
    except ImportError:
        raise needs("geobench2") from None
    return getattr(geobench_v2.datasets, name)


def opened(title: str, kind: Any, root: Path, part: str) -> Any:
    """One part of a set, as the library reads it.

    Raises:
        MissingFileError: If its files are not there.
        InputError: If they are damaged, or hold none of this part.
    """
    source = SETS[title]
    folder = next((f for f in (root, root / title) if all((f / file).is_file() for file in kind.paths)), None)
    if folder is None:
        raise MissingFileError(
            f"{PREFIX}{title} is not at --root {str(root)!r}; expected {', '.join(kind.paths)} there, from "
            f"{kind.url.split('/resolve')[0]}"
        )
    with library(f"{folder / kind.paths[0]} is damaged or no container of {PREFIX}{title}"):
        normalizer = {"data_normalizer": torch.nn.Identity}
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
            data = kind(root=folder, split=part, band_order=order_of(source), **normalizer, **source.options)
        data.data_df = Inspected(data.data_df)
    if not len(data):
        raise InputError(f"{folder / kind.paths[0]} has no samples of its {part} part; copy or download it again")
    return data


def order_of(source: Source) -> Any:
    """Bands as the library is asked for them."""
    orders = {layers.modality: list(layers.theirs) for layers in source.layers.values()}
    return orders.get("") or orders


@contextlib.contextmanager
def library(fault: str) -> Iterator[None]:
    """Call the library: what it raises becomes one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of pandas, pyarrow, rasterio, h5py and its own
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{fault} ({type(error).__name__}: {reason}); copy or download it again") from None


class Inspected:
    """The library's table of samples; files of a sample are looked at before anybody opens them.

    Args:
        table: As tacoreader makes it.
    """

    def __init__(self, table: Any) -> None:
        self.table = table

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.table)

    def read(self, i: int) -> Any:
        """Files of a sample.

        Raises:
            InputError: If one is neither TIFF nor HDF5, or has pixels elsewhere.
        """
        if self.table.iloc[i]["tortilla:file_format"] != "TORTILLA":
            raise InputError(f"sample {i} is no container of files")
        found = self.table.read(i)
        for place in found["internal:subfile"]:
            inspect(str(place))
        return found


def inspect(place: str) -> None:
    """Look at a part of a container.

    Raises:
        InputError: If it is neither TIFF nor HDF5, or has pixels elsewhere.
    """
    found = INSIDE.fullmatch(place)
    if found is None:
        raise InputError(f"{place[:80]!r} is not a part of a container")
    offset, length = int(found[1]), int(found[2])
    with open(found[3], "rb") as file:
        file.seek(offset)
        start = file.read(8)
        if start == HDF5:
            file.seek(offset)
            own_pixels(file.read(length))
        elif not start.startswith(TIFF):
            raise InputError(f"a file at byte {offset} is neither TIFF nor HDF5")


def own_pixels(content: bytes) -> None:
    """Refuse HDF5 that refers to other files."""
    import h5py  # lazy: comes with the library

    with h5py.File(io.BytesIO(content), "r") as file:
        for key in file:
            own = type(file.get(key, getlink=True)).__name__ == "HardLink" and isinstance(file[key], h5py.Dataset)
            if not own or file[key].external or file[key].is_virtual:
                raise InputError(f"a file has no pixels of its own in {key!r}")


class Samples:
    """Gives the pixels, and labels of pixels, of a set's samples by number.

    Args:
        title: Name of the set.
        data: Of the library.
        classes: Number of classes.
    """

    def __init__(self, title: str, data: Any, classes: int) -> None:
        self.title, self.data, self.classes = title, data, classes

    def __call__(self, i: int) -> dict[str, Tensor]:
        """Pixels by sensor in physical units, NaN = none; ``labels`` where there is one per pixel."""
        source = SETS[self.title]
        with library(f"sample {i} of {PREFIX}{self.title} ({self.data.split}) cannot be read"):
            sample: Mapping[str, Any] = self.data[i]
            found = {sensor: pixels(sample[layers.key], layers) for sensor, layers in source.layers.items()}
            if source.task != "classify":
                found["labels"] = self.labels(sample["mask"], source)
        return found

    def labels(self, mask: Tensor, source: Source) -> Tensor:
        """Classes from 1 on, 0 = not labelled; or amounts, NaN = none."""
        if source.task == "regress":
            return mask.float() / source.amount
        label = mask.long() - source.first + 1
        return torch.where((label >= 1) & (label <= self.classes), label, 0)


def pixels(stored: Tensor, layers: Layers) -> Float[Tensor, "c h w"]:
    """Stored numbers in physical units; radar of 0 in all bands, which the library writes for none, is NaN."""
    x = stored.float()
    if x.ndim != 3 or len(x) != len(layers.theirs):
        raise InputError(f"{layers.key} has shape {tuple(x.shape)}; expected {len(layers.theirs)} bands")
    filled = (x == 0).all(dim=0, keepdim=True) & (layers.bands.unit == "dB")
    x = 10 * x.clamp(min=1e-10).log10() if layers.is_power else x / layers.scale
    return torch.where(filled, torch.nan, x)


def labels_of(title: str, data: Any, classes: tuple[str, ...]) -> Int[ndarray, "n ..."]:
    """Class of every sample, or 0 and 1 per class, from the table of samples.

    Raises:
        InputError: If one is not a class of the set.
    """
    table = data.data_df.table
    fault = f"a sample of {PREFIX}{title} has a label that is none of its {len(classes)} classes"
    with library(fault):
        stored = table[SETS[title].labels].tolist()
        if getattr(data, "multilabel", False):
            return np.array([[name in set(own) for name in classes] for own in map(known(classes), stored)], np.int64)
        return np.array([classes.index(one) if isinstance(one, str) else range(len(classes))[one] for one in stored])


def known(classes: tuple[str, ...]) -> Any:
    """Check that names are those of classes."""

    def check(names: Any) -> list[str]:
        found = [str(name) for name in names]
        for name in found:
            classes.index(name)
        return found

    return check


def places_of(sets: list[Any]) -> Places | None:
    """Where samples lie; None if a table does not say it for all."""
    tables = [data.data_df.table for data in sets]
    if not all({"lon", "lat"} <= set(table.columns) for table in tables):
        return None
    lon, lat = (np.concatenate([np.asarray(table[key], np.float64) for table in tables]) for key in ("lon", "lat"))
    return of_degrees(lon, lat) if np.isfinite(lon).all() and (np.abs(lat) <= 90).all() else None
