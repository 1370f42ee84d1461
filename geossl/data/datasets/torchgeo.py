"""Labelled data sets known by name, through TorchGeo's classes, in physical units and with their official splits.

Every adapter says what TorchGeo's tensors do not: band names, units, processing level, and where its labels are.
``checksum`` is always stated: what is downloaded is checked, what is there already is not. TorchGeo 0.10 turns it on by
default, which hashes gigabytes at every start and asks for archives that were unpacked and deleted.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from rasterio.enums import Resampling
from torch import Tensor
from torch.utils.data import ConcatDataset, StackDataset, Subset
from torchgeo.datasets import (
    SEN12MS,
    BigEarthNet,
    BigEarthNetV2,
    CopernicusBenchDFC2020S1,
    CopernicusBenchDFC2020S2,
    DatasetNotFoundError,
    DependencyNotFoundError,
    EuroSAT,
    EuroSAT100,
    EuroSATSpatial,
    So2Sat,
)

from geossl.data.datasets.base import Bands, ClassificationDataset, MapParts, SegmentationDataset
from geossl.data.mapped import Mapped
from geossl.data.splits import SPLIT_NAMES
from geossl.errors import InputError, MissingFileError, RunError, UnknownNameError, needs
from geossl.models.encoder import Items
from geossl.sensors import OPTICAL, RADAR, S1_BANDS, S2_BANDS, SENSORS

GRD = Bands(S1_BANDS, SENSORS[RADAR].unit, "GRD sigma0")
L1C_BANDS = (*S2_BANDS[:10], "B10", *S2_BANDS[10:])
PARTS: tuple[Any, ...] = SPLIT_NAMES  # TorchGeo types them as literals


def named_set(name: str, root: Path, download: bool) -> ClassificationDataset | SegmentationDataset:
    """A data set known by name.

    Args:
        name: One of ``DATASETS``.
        root: Its folder, in the layout TorchGeo expects.
        download: Fetch it if it is not there.

    Raises:
        UnknownNameError: If the name is not known.
        MissingFileError: If the data set is not at ``root``.
    """
    if name not in DATASETS:
        raise UnknownNameError("data set", name, DATASETS)
    try:
        return DATASETS[name](root, download)
    except DependencyNotFoundError as error:
        raise InputError(f"data set {name} needs another package: {' '.join(str(error).split())}") from None
    except DatasetNotFoundError:
        how = f"get it from {BY_HAND[name]}" if name in BY_HAND else "add --download"
        raise MissingFileError(f"data set {name} is not at --root {str(root)!r}; name its folder, or {how}") from None
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise RunError(f"data set {name} at {str(root)!r} cannot be fetched or read ({reason})") from None


def reflectance(dn: Tensor) -> Tensor:
    """Reflectance of numbers without offset; all data sets here are older than processing baseline 04.00."""
    return dn.float() / 10000


def eurosat_of(kind: type[EuroSAT], name: str) -> Callable[[Path, bool], ClassificationDataset]:
    """EuroSAT in one of its splits: 13 bands of L1C, 64 px, ten classes."""

    def read(root: Path, download: bool) -> ClassificationDataset:
        sets = [kind(str(root), part, download=download, checksum=download) for part in PARTS]
        items: Items = ConcatDataset([Mapped(s, lambda sample: {OPTICAL: reflectance(sample["image"])}) for s in sets])
        return ClassificationDataset(
            name,
            items,
            np.concatenate([np.array(s.targets, np.int64) for s in sets]),
            tuple(sets[0].classes),
            {OPTICAL: Bands(tuple(kind.all_band_names), "reflectance", "L1C")},
            part=part_numbers(sets),
            gsd_m=10.0,
        )

    return read


def part_numbers(sets: Sequence[Any]) -> np.ndarray:
    """0, 1, 2 for every sample of the training, validation and test sets."""
    return np.repeat(np.arange(len(sets)), [len(s) for s in sets])


def bigearthnet(root: Path, download: bool) -> ClassificationDataset:
    """BigEarthNet-MM: Sentinel-1 and L2A, 120 px, 19 classes, several per patch; the authors' splits."""
    sets = [BigEarthNet(str(root), part, num_classes=19, download=download, checksum=download) for part in PARTS]
    items = [Mapped([*s.folders], lambda f: patch(Path(f["s1"]), Path(f["s2"]))) for s in sets]
    labels = np.stack([s._load_target(i).numpy() for s in sets for i in range(len(s))]).astype(np.int64)
    return of_bigearthnet(
        "bigearthnet", ConcatDataset(items), labels, tuple(BigEarthNet.class_sets[19]), part_numbers(sets)
    )


def bigearthnet2(root: Path, download: bool) -> ClassificationDataset:
    """BigEarthNet v2.0 (reBEN): the same places with newer labels and splits by grid cell."""
    sets = [BigEarthNetV2(str(root), part, download=download, checksum=download) for part in PARTS]
    items = [Mapped([row for _, row in s.metadata_df.iterrows()], lambda row: reben(root, row)) for s in sets]
    labels = np.stack([s._load_target(i).numpy() for s in sets for i in range(len(s))]).astype(np.int64)
    return of_bigearthnet(
        "bigearthnet2", ConcatDataset(items), labels, tuple(BigEarthNetV2.class_set), part_numbers(sets)
    )


def of_bigearthnet(
    name: str, items: Items, labels: np.ndarray, classes: tuple[str, ...], part: np.ndarray
) -> ClassificationDataset:
    """A data set of either version."""
    sensors = {RADAR: GRD, OPTICAL: Bands(S2_BANDS, "reflectance", "L2A")}
    return ClassificationDataset(name, items, labels, classes, sensors, part=part, gsd_m=10.0)


def reben(root: Path, row: Any) -> dict[str, Tensor]:
    """Pixels of a row of version 2's table."""
    names = BigEarthNetV2.dir_file_names
    radar, optical = str(row["s1_name"]), str(row["patch_id"])
    s1 = root / names["s1"] / radar.rsplit("_", 3)[0] / radar
    return patch(s1, root / names["s2"] / optical.rsplit("_", 2)[0] / optical)


def patch(s1: Path, s2: Path) -> dict[str, Tensor]:
    """Bands of a BigEarthNet patch at 10 m, by their names.

    TorchGeo's reading is not used: it cuts decibels to whole numbers and has VH before VV.
    """
    return {RADAR: bands_of(s1, S1_BANDS), OPTICAL: reflectance(bands_of(s2, S2_BANDS))}


def bands_of(folder: Path, names: Sequence[str]) -> Tensor:
    """One file per band, coarser ones resampled bilinearly to 120 px."""
    arrays = []
    for band in names:
        try:
            with rasterio.open(folder / f"{folder.name}_{band}.tif") as file:
                pixels = file.read(1, out_shape=BigEarthNet.image_size, resampling=Resampling.bilinear)
        except rasterio.errors.RasterioError as error:
            raise RunError(f"{folder} is not complete ({' '.join(str(error).split())}); fetch it again") from None
        arrays.append(pixels.astype(np.float32))
    return torch.from_numpy(np.stack(arrays))


def so2sat(root: Path, download: bool) -> ClassificationDataset:
    """So2Sat LCZ42, version 2: 32 px, 17 local climate zones; ten optical bands, so encoders of twelve take radar only.

    Radar is the Lee-filtered intensity (bands 5 and 6: VH, VV), here in dB.
    """
    try:
        import h5py  # lazy: extra
    except ImportError:
        raise needs("datasets") from None
    sets = [So2Sat(str(root), "2", part, checksum=False) for part in ("train", "validation", "test")]
    labels = []
    for s in sets:
        with h5py.File(s.fn, "r") as file:
            labels.append(file["label"][:].argmax(axis=1))
    optical = tuple(name.removeprefix("S2_") for name in So2Sat.all_s2_band_names)
    sensors = {RADAR: GRD._replace(level="Lee-filtered"), OPTICAL: Bands(optical, "reflectance", "not stated")}

    def item(sample: Mapping[str, Tensor]) -> dict[str, Tensor]:
        power = sample["image"][[5, 4]].clamp(min=1e-10)
        return {RADAR: 10 * power.log10(), OPTICAL: sample["image"][8:]}

    items: Items = ConcatDataset([Mapped(s, item) for s in sets])
    classes = tuple(So2Sat.classes)
    return ClassificationDataset(
        "so2sat", items, np.concatenate(labels), classes, sensors, part=part_numbers(sets), gsd_m=10.0
    )


def dfc2020(root: Path, download: bool) -> SegmentationDataset:
    """DFC2020 as Copernicus-Bench splits it: Sentinel-1 and L1C, 256 px, a class per pixel."""
    radar, optical = CopernicusBenchDFC2020S1, CopernicusBenchDFC2020S2
    pairs = [
        [kind(str(root), part, download=download, checksum=download) for kind in (radar, optical)] for part in PARTS
    ]

    def item(both: tuple[Any, Any]) -> dict[str, Tensor]:
        s1, s2 = both
        return {RADAR: s1["image"], OPTICAL: reflectance(s2["image"]), "labels": s1["mask"].long()}

    parts = MapParts(*(Mapped(StackDataset(*pair), item) for pair in pairs))
    sensors = {RADAR: GRD, OPTICAL: Bands(tuple(optical.all_bands), "reflectance", "L1C")}
    return SegmentationDataset("dfc2020", official(parts), tuple(radar.classes[1:]), sensors)


IGBP = (
    "evergreen needleleaf forest",
    "evergreen broadleaf forest",
    "deciduous needleleaf forest",
    "deciduous broadleaf forest",
    "mixed forest",
    "closed shrubland",
    "open shrubland",
    "woody savanna",
    "savanna",
    "grassland",
    "permanent wetland",
    "cropland",
    "urban",
    "cropland and natural mosaic",
    "snow and ice",
    "barren",
    "water",
)


def sen12ms(root: Path, download: bool) -> SegmentationDataset:
    """SEN12MS: Sentinel-1 and L1C, 256 px, IGBP land cover of MODIS (500 m); every seventh training scene validates."""
    sets = {part: SEN12MS(str(root), part, checksum=False) for part in ("train", "test")}

    def item(sample: Mapping[str, Tensor]) -> dict[str, Tensor]:
        labels = sample["mask"].long()
        known = torch.where((labels >= 1) & (labels <= len(IGBP)), labels, 0)
        return {RADAR: sample["image"][:2].float(), OPTICAL: reflectance(sample["image"][2:]), "labels": known}

    scenes = ["_".join(name.split("_")[i] for i in (0, 1, 3)) for name in sets["train"].ids]
    held = set(sorted(set(scenes))[::7])
    rows = {
        name: [i for i, scene in enumerate(scenes) if (scene in held) == (name == "val")] for name in SPLIT_NAMES[:2]
    }
    train, val = (Mapped(Subset(sets["train"], rows[name]), item) for name in SPLIT_NAMES[:2])
    sensors = {RADAR: GRD, OPTICAL: Bands(L1C_BANDS, "reflectance", "L1C")}
    return SegmentationDataset("sen12ms", official(MapParts(train, val, Mapped(sets["test"], item))), IGBP, sensors)


def official(parts: MapParts) -> Callable[[str, int], MapParts]:
    """Chips of an official split, whatever the seed.

    Raises:
        InputError: If another split is asked for.
    """

    def of(split: str, seed: int) -> MapParts:
        if split not in ("auto", "official"):
            raise InputError(f"--split {split!r} is not possible here; this data set has an official split")
        return parts

    return of


DATASETS: dict[str, Callable[[Path, bool], ClassificationDataset | SegmentationDataset]] = {
    "bigearthnet": bigearthnet,
    "bigearthnet2": bigearthnet2,
    "dfc2020": dfc2020,
    "eurosat": eurosat_of(EuroSAT, "eurosat"),
    "eurosat100": eurosat_of(EuroSAT100, "eurosat100"),
    "eurosat_spatial": eurosat_of(EuroSATSpatial, "eurosat_spatial"),
    "sen12ms": sen12ms,
    "so2sat": so2sat,
}
BY_HAND = {
    "sen12ms": "https://mediatum.ub.tum.de/1474000 (with the lists train_list.txt and test_list.txt)",
    "so2sat": "https://mediatum.ub.tum.de/1483140",
}
