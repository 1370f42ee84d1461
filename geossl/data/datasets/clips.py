"""Labelled image series (an .npz) and labelled videos (a folder per class), for evaluating encoders of clips."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor
from torch.utils.data import Dataset

from geossl.data.arrays import class_numbers, number, official_part
from geossl.data.datasets.base import RGB_IMAGES, Bands, ClassificationDataset, two_classes
from geossl.data.datasets.units import PixelUnit, spread_rows, stated_unit
from geossl.data.listing import files_in, folders_in
from geossl.data.sentinel.band_names import names_in_order
from geossl.data.series.video import VIDEOS, VideoFile, find_videos, read_frames
from geossl.errors import InputError
from geossl.sensors import OPTICAL

FRAMES = 16  # taken from a video, at equal steps over all of it


class SeriesItems(Dataset[dict[str, Tensor]]):
    """Image series of one array: ``s2`` (t c h w) reflectance and ``days`` (t).

    Args:
        x: All series; integers are reflectance x 10000, and 0 in all bands is nodata.
        days: Day of every frame, since 1 January 2015.
        unit: How numbers become reflectance.
    """

    def __init__(self, x: ndarray, days: Float[ndarray, "n t"], unit: PixelUnit) -> None:
        self.x, self.days, self.unit = x, days, unit

    def __len__(self) -> int:
        """Number of series."""
        return len(self.x)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        """Pixels and days of one series."""
        numbers = np.moveaxis(self.x[i].astype(np.float32), 1, 0)  # bands first
        pixels = np.ascontiguousarray(np.moveaxis(self.unit.physical(numbers), 0, 1))
        return {OPTICAL: torch.from_numpy(pixels), "days": torch.from_numpy(self.days[i])}


class VideoItems(Dataset[dict[str, Tensor]]):
    """Videos: ``rgb`` (t 3 h w), frames at equal steps, the square in their middle; ``days`` are frame numbers.

    Args:
        videos: Files or folders of frames.
        frames: Frames taken from each.
    """

    def __init__(self, videos: Sequence[VideoFile], frames: int = FRAMES) -> None:
        self.videos, self.frames = videos, frames

    def __len__(self) -> int:
        """Number of videos."""
        return len(self.videos)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        """Frames of one video, and their numbers."""
        video = self.videos[i]
        numbers = ((np.arange(self.frames) + 0.5) * video.frames / self.frames).astype(int)
        pixels = read_frames(video, numbers.tolist())
        h, w = pixels.shape[-2:]
        side, top, left = min(h, w), (h - min(h, w)) // 2, (w - min(h, w)) // 2
        middle = pixels[..., top : top + side, left : left + side]
        return {"rgb": middle, "days": torch.from_numpy(numbers.astype(np.float32))}


def holds_videos(root: Path) -> bool:
    """Whether class folders hold video files or folders of frames."""
    return any(files_in(folder, VIDEOS) or folders_in(folder) for folder in folders_in(root))


def video_set(root: Path) -> ClassificationDataset:
    """Video files, or folders of frames, by class.

    Raises:
        InputError: If there are fewer than two classes, or a video cannot be read.
    """
    videos = [video for video in find_videos(root) if video.label]
    classes = two_classes(root, sorted({video.label for video in videos}))
    labels = np.array([classes.index(video.label) for video in videos], np.int64)
    return ClassificationDataset(root.name, VideoItems(videos), labels, classes, RGB_IMAGES)


def series_set(path: Path, arrays: Mapping[str, ndarray], stated: int | None = None) -> ClassificationDataset:
    """Arrays ``x`` (n t c h w), ``days`` (n t), ``y`` (n), ``bands``, ``class_names``; optional ``part``, ``offset``.

    Raises:
        InputError: If they do not fit each other.
    """
    x, y, days = arrays["x"], class_numbers(path, arrays), arrays.get("days", np.zeros(0))
    names = tuple(names_in_order(str(path), [str(band) for band in np.atleast_1d(arrays["bands"])]))
    classes = tuple(str(name) for name in np.atleast_1d(arrays["class_names"]))
    fits = len(x) == len(y) and x.shape[2] == len(names) and days.shape == x.shape[:2]
    if not fits or x.dtype.kind not in "iuf" or days.dtype.kind not in "iuf" or not np.isfinite(days).all():
        raise InputError(
            f"{path}: x is {x.dtype} {x.shape}, y {y.shape}, days {days.dtype} {days.shape}, bands {len(names)}; "
            "expected x (n t c h w), y (n), days (n t) since 2015-01-01, c bands"
        )
    if y.ndim != 1 or not len(y) or y.min() < 0 or y.max() >= len(classes):
        raise InputError(f"{path}: y does not fit the {len(classes)} class_names; expected 0 to {len(classes) - 1}")
    looks = (np.moveaxis(x[i], 1, 0) for i in spread_rows(len(x)))
    unit = stated_unit(str(path), OPTICAL, names, looks, x.dtype.name, offset_in(path, arrays, stated))
    items = SeriesItems(x, days.astype(np.float32), unit)
    level = str(arrays["level"]) if "level" in arrays else "not stated"
    part = official_part(path, arrays, len(y))
    return ClassificationDataset(path.stem, items, y, classes, {OPTICAL: Bands(names, "reflectance", level)}, part=part)


def offset_in(path: Path, arrays: Mapping[str, ndarray], stated: int | None) -> float | None:
    """The offset that a file states, else what the user does.

    Raises:
        InputError: If it is not a number, or both are stated and differ.
    """
    if "offset" not in arrays:
        return None if stated is None else float(stated)
    own = number(path, arrays, "offset")
    own = -1000.0 if math.isclose(own, -0.1, rel_tol=1e-3) else own
    if stated is not None and stated != own:
        raise InputError(f"--s2-offset {stated} is stated, but {path} says {own:g}; leave it out")
    return own
