"""GEO-Bench 1 by name, ``geobench:m-eurosat``: samples in HDF5, partitions in JSON, labels and classes in pickles.

Pickles are read as data, never run. Layout: github.com/ServiceNow/geo-bench; Lacoste et al., NeurIPS 2023,
arXiv:2306.03831. Units are those of the sets' sources, which the files do not state; see data_cards/geobench.md.
"""

import ast
import json
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from geossl.data.datasets.base import RGB_IMAGES, Bands, ClassificationDataset, MapParts, SegmentationDataset
from geossl.data.datasets.inert import DAMAGED, Made, read_inert
from geossl.data.datasets.torchgeo import GRD, L1C_BANDS, official
from geossl.data.mapped import Mapped
from geossl.errors import InputError, MissingFileError, Note, UnknownNameError, needs
from geossl.sensors import OPTICAL, RADAR

PREFIX, ROOT = "geobench:", "data/geobench"
SPLITS = ("train", "valid", "test")
MOST_BYTES = 1 << 24  # of a description
MOST_PX = 4096
SPECTRAL = re.compile(r"(\d\d)(A?) - (?!V[VH]\b)")  # 08A - Vegetation Red Edge
FILTERED = {"06 - VV.LEE Filtered": 0, "05 - VH.LEE Filtered": 1}  # intensity, in the order of S1_BANDS
COLOURS = {"Red": "R", "Green": "G", "Blue": "B", "04 - Red": "R", "03 - Green": "G", "02 - Blue": "B"}
CLASSES = (  # what descriptions refer to beside GEO-Bench's own classes, which are in geobench or, once, ccb
    "affine.Affine", "rasterio.crs.CRS", "rasterio._crs.CRS", "datetime.date", "datetime.datetime",
    "collections.OrderedDict", "copyreg._reconstructor", "builtins.object",
)  # fmt: skip
OWN = ("geobench.", "ccb.")


class Source(NamedTuple):
    """What GEO-Bench does not say of one of its sets.

    Args:
        folder: Part of the benchmark it lies in.
        scale: Numbers per unit reflectance, or white of images of colours.
        gsd_m: Ground sampling distance.
        level: Processing level; empty = images of red, green and blue.
        note: What a reader of scores should know.
    """

    folder: str
    scale: float
    gsd_m: float
    level: str = ""
    note: str = ""


CLASSIFY, SEGMENT = "classification_v1.0", "segmentation_v1.0"
MISNAMED = (
    "bands 08A to 12 do not hold what they are named for: by the published statistics they are B11, B12 and 8-bit "
    "numbers (mean of 12: 0.007); published scores use them all the same"
)
SETS = {
    "m-bigearthnet": Source(CLASSIFY, 10000, 10.0, "L2A"),
    "m-brick-kiln": Source(CLASSIFY, 10000, 10.0, "not stated", MISNAMED),
    "m-eurosat": Source(CLASSIFY, 10000, 10.0, "L1C"),
    "m-forestnet": Source(CLASSIFY, 255, 15.0),
    "m-pv4ger": Source(CLASSIFY, 255, 0.1),
    "m-so2sat": Source(CLASSIFY, 1, 10.0, "not stated"),
    "m-NeonTree": Source(SEGMENT, 255, 0.1),
    "m-SA-crop-type": Source(SEGMENT, 255, 10.0, "8 bit", "numbers are 8 bit; reflectance is taken to be 1 at 255"),
    "m-cashew-plant": Source(SEGMENT, 10000, 10.0, "L2A"),
    "m-chesapeake": Source(SEGMENT, 255, 1.0),
    "m-nz-cattle": Source(SEGMENT, 255, 0.1),
    "m-pv4ger-seg": Source(SEGMENT, 255, 0.1),
}


def geobench_set(name: str, root: str | Path | None) -> ClassificationDataset | SegmentationDataset:
    """A set of GEO-Bench 1 in one of its partitions.

    Args:
        name: ``geobench:m-eurosat``, or ``geobench:m-eurosat:0.10x_train`` for another partition than ``default``.
        root: Folder that GEO-Bench's own download made, or that of the set; by default what ``GEO_BENCH_DIR`` names,
            else ``data/geobench``.

    Raises:
        UnknownNameError: If there is no such set or partition.
        MissingFileError: If it is not there.
        InputError: If its files are damaged, or their descriptions refer to what the format does not use.
    """
    title, _, partition = name.removeprefix(PREFIX).partition(":")
    known = {key.lower(): key for key in SETS}
    if title.lower() not in known:
        raise UnknownNameError("set of GEO-Bench", title, SETS)
    title = known[title.lower()]
    source, folder = SETS[title], folder_of(title, Path(root or os.environ.get("GEO_BENCH_DIR") or ROOT))
    partition = partition or "default"
    parts = samples_of(folder, partition)
    specs = specs_of(folder)
    classes = classes_of(specs, folder)
    files = [folder / f"{sample}.hdf5" for names in parts for sample in names]
    reader = Pixels(files[0], source, len(classes))
    if source.note:
        warnings.warn(f"{PREFIX}{title}: {source.note}", Note, stacklevel=2)
    about = {"benchmark": "GEO-Bench 1", "partition": partition}
    if source.folder == SEGMENT:
        ends = np.cumsum([len(names) for names in parts])
        chips = MapParts(*(Mapped(list(own), reader.chip) for own in np.split(np.array(files, object), ends[:2])))
        return SegmentationDataset(title, official(chips), classes, reader.sensors, about)
    labels = labels_of(folder, files, len(classes))
    part = np.repeat(np.arange(3), [len(names) for names in parts])
    items = Mapped(files, reader.image)
    return ClassificationDataset(
        title, items, labels, classes, reader.sensors, part=part, gsd_m=source.gsd_m, metadata=about
    )


def folder_of(name: str, root: Path) -> Path:
    """Folder of a set.

    Raises:
        MissingFileError: If there is none.
    """
    for folder in (root / SETS[name].folder / name, root / name, root):
        if (folder / "task_specs.pkl").is_file():
            return folder
    raise MissingFileError(
        f"{PREFIX}{name} is not at --root {str(root)!r}; fetch it with GEO-Bench's own `geobench-download` and name "
        "that folder, or set GEO_BENCH_DIR"
    )


def samples_of(folder: Path, partition: str) -> list[list[str]]:
    """Names of the samples of a partition: training, validation, test.

    Raises:
        UnknownNameError: If there is no such partition.
        InputError: If its list is damaged.
    """
    ending = "_partition.json"
    known = sorted(file.name.removesuffix(ending) for file in folder.glob(f"*{ending}"))
    if partition not in known:
        raise UnknownNameError(f"partition of {folder.name}", partition, known)
    path = folder / f"{partition}{ending}"
    try:
        lists = json.loads(path.read_text())
        parts = [[str(name) for name in lists[split]] for split in SPLITS]
    except (*DAMAGED, RecursionError):
        raise InputError(f"{path} is damaged; expected lists of samples: {', '.join(SPLITS)}") from None
    if wrong := [name for names in parts for name in names if Path(name).name != name]:
        raise InputError(f"{path} names a sample {wrong[0][:80]!r}, which is not the name of a file beside it")
    if not all(parts):
        raise InputError(f"{path} has no samples in one of {', '.join(SPLITS)}")
    return parts


def specs_of(folder: Path) -> Made:
    """The set's description."""
    path = folder / "task_specs.pkl"
    if path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path} is too large for a description; copy or download it again")
    found = read_inert(path.read_bytes(), path, CLASSES, OWN)
    if not isinstance(found, Made):
        raise InputError(f"{path} is not a description of GEO-Bench; copy or download it again")
    return found


def classes_of(specs: Made, folder: Path) -> tuple[str, ...]:
    """Names of the classes; numbers where the set has none."""
    kind = specs.state.get("label_type")
    state = kind.state if isinstance(kind, Made) else {}
    names, count = state.get("_class_names") or state.get("class_name"), state.get("n_classes")
    if not isinstance(count, int) or not 2 <= count <= MOST_PX:
        raise InputError(f"{folder / 'task_specs.pkl'} does not say how many classes there are; download it again")
    if not isinstance(names, list | tuple) or len(names) != count:
        return tuple(f"class {number}" for number in range(count))
    return tuple(map(str, names))


def labels_of(folder: Path, files: Sequence[Path], classes: int) -> ndarray:
    """Labels of samples, from the set's list of them if it has one, else from the samples, milliseconds each."""
    stored: dict[str, Any] = {}
    for name in ("label_map.json", "label_stats.json"):
        path = folder / name
        try:
            found = json.loads(path.read_text()) if path.is_file() else {}
            by_class = (
                {sample: int(label) for label, own in found.items() for sample in own} if "map" in name else found
            )
            stored |= {str(sample): np.asarray(label).astype(np.int64) for sample, label in by_class.items()}
        except (*DAMAGED, RecursionError):
            raise InputError(f"{path} is damaged; copy or download it again") from None
    labels = [stored[f.stem] if f.stem in stored else label_of(f) for f in files]
    for file, label in zip(files, labels, strict=True):
        one = label.ndim == 0 and 0 <= label < classes
        if not (one or (label.shape == (classes,) and ((label == 0) | (label == 1)).all())):
            raise InputError(f"{file} has a label that is none of {classes} classes; copy or download it again")
        if label.shape != labels[0].shape:
            raise InputError(f"{file} has another kind of label than {files[0].name}; download the set again")
    return np.stack(labels)


def label_of(path: Path) -> ndarray:
    """The class of a sample, or 0 and 1 per class, from its description.

    Raises:
        InputError: If it is damaged.
    """
    with opened(path) as file:
        text = str(file.attrs.get("pickle", ""))
    if len(text) > MOST_BYTES or not text.startswith(("b'", 'b"')):
        raise InputError(f"{path} has no description; copy or download it again")
    try:
        label = read_inert(ast.literal_eval(text), path, CLASSES, OWN)["label"]
        return np.asarray(label.array() if isinstance(label, Made) else label).astype(np.int64)
    except (*DAMAGED, SyntaxError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} has no label; copy or download it again") from None


def opened(path: Path) -> Any:
    """An HDF5 file.

    Raises:
        MissingExtraError: If h5py is not installed.
        MissingFileError, InputError: If it is missing or damaged.
    """
    try:
        import h5py  # lazy: an extra
    except ImportError:
        raise needs("datasets") from None
    if not path.is_file():
        raise MissingFileError(f"{path} is missing, which a partition names; download the set again")
    try:
        return h5py.File(path, "r")
    except OSError:
        raise InputError(f"{path} is damaged or no HDF5 file; copy or download it again") from None


class Pixels:
    """Reads samples: bands by their names, in physical units.

    Args:
        first: A sample, whose bands are those of all.
        source: What the files do not say.
        classes: Number of classes.
    """

    def __init__(self, first: Path, source: Source, classes: int) -> None:
        self.source, self.classes = source, classes
        with opened(first) as file:
            names = [band_of(key) for key in file]
        self.radar = all(name in names for name in FILTERED)
        self.bands: dict[str, str] = {}  # our name -> theirs
        for name in names:
            if not source.level and name in COLOURS:
                self.bands[COLOURS[name]] = name
            elif source.level and (found := SPECTRAL.match(name)):
                self.bands[f"B{found[1]}" if not found[2] else f"B{int(found[1])}A"] = name
        order = RGB_IMAGES["rgb"].names if not source.level else L1C_BANDS
        self.names = tuple(band for band in order if band in self.bands)
        if not self.names:
            raise InputError(f"{first} holds none of {', '.join(order)}; copy or download it again")

    @property
    def sensors(self) -> dict[str, Bands]:
        """Bands by sensor."""
        if not self.source.level:
            return {"rgb": Bands(self.names, "0..1", "8 bit")}
        radar = {RADAR: GRD._replace(level="Lee-filtered")} if self.radar else {}
        return {**radar, OPTICAL: Bands(self.names, "reflectance", self.source.level)}

    def image(self, path: Path) -> dict[str, Tensor]:
        """Pixels of a sample by sensor."""
        with opened(path) as file:
            layers = {band_of(key): key for key in file}
            found = {
                OPTICAL if self.source.level else "rgb": self.stacked(file, layers, [*map(self.bands.get, self.names)])
                / self.source.scale
            }
            if self.radar:
                power = self.stacked(file, layers, sorted(FILTERED, key=FILTERED.__getitem__))
                found[RADAR] = 10 * power.clamp(min=1e-10).log10()
        return found

    def chip(self, path: Path) -> dict[str, Tensor]:
        """Pixels and classes of a sample; class 0 of the set is label 1, as 0 is not labelled here."""
        found = self.image(path)
        with opened(path) as file:
            key = next((key for key in file if key.startswith("label")), "label")
            label = layer(file, key).long() + 1
        if not 1 <= int(label.min()) <= int(label.max()) <= self.classes:
            raise InputError(f"{path} has labels that are none of {self.classes} classes; copy or download it again")
        return {**found, "labels": label}

    def stacked(self, file: Any, layers: dict[str, str], names: Sequence[Any]) -> Tensor:
        """Bands of a file, one size for all."""
        found = [layer(file, layers.get(name, name)).float() for name in names]
        if len({x.shape for x in found}) > 1:
            raise InputError(f"{file.filename} has bands of several sizes; copy or download it again")
        return torch.stack(found)


def band_of(key: str) -> str:
    """Name of a band, without the date that may follow it."""
    return re.sub(r"_(\d{4}-\d\d-\d\d.*|NoDate)$", "", key)


def layer(file: Any, key: str) -> Tensor:
    """Pixels of one band.

    Raises:
        InputError: If it is not there, or not an array of numbers in this very file.
    """
    link = file.get(key, getlink=True) if key in file else None
    data: Any = file[key] if type(link).__name__ == "HardLink" else None
    shape = getattr(data, "shape", ())
    is_own = data is not None and len(shape) == 2 and not data.external and not data.is_virtual
    if not is_own or max(shape) > MOST_PX or data.dtype.kind not in "iuf":
        raise InputError(f"{file.filename} has no band {key!r} of pixels of its own; copy or download it again")
    try:
        return torch.from_numpy(np.asarray(data[()]).astype(np.float32))
    except OSError:
        raise InputError(f"{file.filename} is damaged in band {key!r}; copy or download it again") from None
