"""Batches of clips for pretraining: dates of image series, or frames of ordinary video."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor
from torch.utils.data import Dataset

from geossl.data.batches import DrawnData
from geossl.data.series.stacks import ImageSeries
from geossl.data.series.video import VideoFile, find_videos, read_frames
from geossl.errors import GridError, InputError

ATTEMPTS = 20
CLEAR_SHARE = 0.9  # of a chip's pixels, from which a date counts as clear
CROP_AREA, CROP_ASPECT = (0.5, 1.0), (0.75, 4 / 3)  # of video. Source: SpatioTemporal-MAE's code
Clip = dict[str, Tensor]  # "clip": t c h w, "days": t


class ClipSource(Dataset[Clip], ABC):
    """Draw number to clip; everything random is a function of seed and draw number.

    Args:
        frames: Dates or frames of a clip.
        chip_px: Side of a clip, in pixels.
        seed: Seeds places, dates, turns and flips.
    """

    def __init__(self, frames: int, chip_px: int, seed: int) -> None:
        self.frames, self.chip_px, self.seed = frames, chip_px, seed

    def __getitem__(self, number: int) -> Clip:
        """Clip of a draw."""
        return self.draw(np.random.default_rng((self.seed, number)))

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> Clip:
        """A random clip."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """JSON values for provenance."""


class SeriesClips(ClipSource):
    """Squares of image series on some of their dates, in reflectance, NaN where not usable.

    A series is drawn with chance in proportion to its pixels. Of its dates within ``span`` days, random ones are
    taken, of which a given share may be cloudy; too few dates are filled up with missing ones. Chips are turned and
    flipped, all dates alike; dates are never shuffled.

    Args:
        series: Series, see ``geossl.data.series.stacks``.
        frames: Dates per clip.
        chip_px: Side of a clip, in pixels.
        seed: Seeds everything random.
        span: Days a clip may cover.
        max_cloudy: Share of dates that may be less than nine tenths usable.
    """

    def __init__(
        self, series: Sequence[ImageSeries], frames: int, chip_px: int, seed: int, span: int, max_cloudy: float
    ) -> None:
        super().__init__(frames, chip_px, seed)
        self.series, self.span, self.max_cloudy = series, span, max_cloudy
        for one in series:
            if min(one.geobox.shape) < chip_px:
                height, width = one.geobox.shape
                raise GridError(f"series {one.name} is {height} x {width} px; data.chip_px={chip_px} does not fit")
        pixels = np.array([len(s.files) * s.geobox.shape[0] * s.geobox.shape[1] for s in series], dtype=float)
        self.chance = pixels / pixels.sum()

    def draw(self, rng: np.random.Generator) -> Clip:
        """See ClipSource; of 20 draws the first with a clear date for every frame that needs one, else the best."""
        best: tuple[int, Float[ndarray, "t c h w"], Int[ndarray, " t"]] | None = None
        for _ in range(ATTEMPTS):
            one = self.series[int(rng.choice(len(self.series), p=self.chance))]
            top, left = (int(rng.integers(n - self.chip_px + 1)) for n in one.geobox.shape)
            dates = within(one.days, self.span, rng)
            pixels = one.chip(dates.tolist(), top, left, self.chip_px)
            clear = int((valid_of(pixels) >= CLEAR_SHARE).sum())
            if best is None or clear > best[0]:
                best = clear, pixels, one.days[dates]
            if clear >= self.least_clear:
                break
        assert best is not None
        return clip_of(*best[1:], self.frames, self.least_clear, rng)

    @property
    def least_clear(self) -> int:
        """Dates of a clip that should be clear."""
        return self.frames - int(self.max_cloudy * self.frames)

    def describe(self) -> dict[str, Any]:
        """See ClipSource."""
        return {"series": [one.describe() for one in self.series]}


class VideoClips(ClipSource):
    """Frames of video at equal steps, cropped and resized, all frames alike; red, green, blue from 0 to 1.

    Args:
        videos: Videos, see ``geossl.data.series.video``.
        frames: Frames per clip.
        chip_px: Side of a clip, in pixels.
        seed: Seeds everything random.
        span: Frames of the video a clip covers: 64 for 16 frames, each the fourth.
    """

    def __init__(self, videos: Sequence[VideoFile], frames: int, chip_px: int, seed: int, span: int) -> None:
        super().__init__(frames, chip_px, seed)
        self.videos, self.span = videos, span

    def draw(self, rng: np.random.Generator) -> Clip:
        """See ClipSource; a video shorter than ``span`` is taken whole, its frames repeated if need be."""
        video = self.videos[int(rng.integers(len(self.videos)))]
        first = int(rng.integers(max(1, video.frames - self.span + 1)))
        numbers = (first + np.arange(self.frames) * min(self.span, video.frames) / self.frames).astype(int)
        pixels = random_crop(read_frames(video, numbers.tolist()), self.chip_px, rng)
        pixels = pixels.flip(-1) if rng.integers(2) else pixels
        return {"clip": pixels.contiguous(), "days": torch.from_numpy(numbers.astype(np.float32))}

    def describe(self) -> dict[str, Any]:
        """See ClipSource."""
        return {"videos": len(self.videos), "frames": sum(video.frames for video in self.videos)}


class Clips(DrawnData):
    """``{"clip": b t c h w, "days": b t}``.

    Args:
        source: Clips by draw number.
        batch_size: Clips per batch and rank.
        steps: Batches in all.
        workers: Loader processes.
    """

    def __init__(self, source: ClipSource, batch_size: int, steps: int, workers: int = 0) -> None:
        super().__init__(batch_size, "clips", steps, workers)
        self.source = source

    @property
    def dataset(self) -> ClipSource:
        """A clip per draw number."""
        return self.source

    def survey(self, clips: int = 200) -> Iterator[dict[str, Tensor]]:
        """Clips to take statistics from: the first of the run."""
        yield from ({"clip": self.source[i]["clip"]} for i in range(clips))

    def describe(self) -> dict[str, Any]:
        """See TrainingData."""
        return self.source.describe()


def within(days: Int[ndarray, " t"], span: int, rng: np.random.Generator) -> Int[ndarray, " n"]:
    """Numbers of the dates in a random stretch of time; the whole series if it is shorter."""
    start = days[0] + int(rng.integers(max(1, days[-1] - days[0] - span + 1)))
    return np.flatnonzero((days >= start) & (days <= start + span))


def valid_of(pixels: Float[ndarray, "t c h w"]) -> Float[ndarray, " t"]:
    """Share of every date's pixels that is usable."""
    return np.isfinite(pixels[:, 0]).mean(axis=(1, 2))


def clip_of(
    pixels: Float[ndarray, "t c h w"], days: Int[ndarray, " t"], frames: int, least_clear: int, rng: np.random.Generator
) -> Clip:
    """Some of the dates of a chip, in time: clear ones and some of the others; turned and flipped, all alike."""
    valid = valid_of(pixels)
    clear, cloudy = np.flatnonzero(valid >= CLEAR_SHARE), np.flatnonzero((valid > 0) & (valid < CLEAR_SHARE))
    some = rng.permutation(cloudy)[: int(rng.integers(frames - least_clear + 1))]
    chosen = np.sort(np.concatenate([rng.permutation(clear)[: frames - len(some)], some]))
    turned = np.rot90(pixels[chosen], int(rng.integers(4)), axes=(-2, -1))
    turned = turned[..., ::-1] if rng.integers(2) else turned
    return filled_up(torch.from_numpy(turned.copy()), days[chosen].astype(np.float32), frames)


def filled_up(pixels: Float[Tensor, "n c h w"], days: Float[ndarray, " n"], frames: int) -> Clip:
    """Missing dates after the last one, so that all clips are equally long."""
    if not len(pixels):
        raise InputError("a series has no valid pixel on any date; check nodata and data.cloud_above")
    lacking = frames - len(pixels)
    missing = pixels.new_full((lacking, *pixels.shape[1:]), torch.nan)
    days = np.concatenate([days, np.repeat(days[-1:], lacking)])
    return {"clip": torch.cat([pixels, missing]), "days": torch.from_numpy(days)}


def random_crop(x: Float[Tensor, "t c h w"], size: int, rng: np.random.Generator) -> Float[Tensor, "t c s s"]:
    """A part of random area and aspect, the same in all frames, resized to a square."""
    h, w = x.shape[-2:]
    area, aspect = rng.uniform(*CROP_AREA) * h * w, np.exp(rng.uniform(*np.log(CROP_ASPECT)))
    height, width = min(h, round((area / aspect) ** 0.5)), min(w, round((area * aspect) ** 0.5))
    top, left = int(rng.integers(h - height + 1)), int(rng.integers(w - width + 1))
    part = x[:, :, top : top + height, left : left + width]
    return F.interpolate(part, (size, size), mode="bilinear", antialias=True)


def video_clips(root: str | Path, frames: int, chip_px: int, seed: int, span: int) -> VideoClips:
    """Clips of the videos of a folder."""
    return VideoClips(find_videos(root), frames, chip_px, seed, span)
