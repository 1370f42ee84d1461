"""SSL4EO-S12 as image series: the four seasons of a place are the dates of a clip; see geossl.data.sentinel.ssl4eo."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from geossl.data.listing import folders_in
from geossl.data.sentinel.ssl4eo import file_name, moment, side_of, stack
from geossl.data.series.batches import ATTEMPTS, CLEAR_SHARE, Clip, ClipSource, clip_of, valid_of, within
from geossl.data.series.stacks import Clouds, day_number
from geossl.errors import GridError, InputError, MissingFileError


class SeasonClips(ClipSource):
    """Squares of a random place on its dates, in reflectance, NaN where not usable.

    Args:
        root: Folder with ``s2a/<place>/<scene>/``; radar is not needed.
        bands: Sentinel-2 bands, in the order they are wanted.
        clouds: Pixels that are left out; None = nothing but nodata.
        frames: Dates per clip; a place has four.
        chip_px: Side of a clip, in pixels.
        seed: Seeds everything random.
        span: Days a clip may cover.
        max_cloudy: Share of dates that may be less than nine tenths usable.

    Raises:
        MissingFileError: If there is no place.
        InputError: If the first place has fewer than two dates.
        GridError: If a chip does not fit.
    """

    def __init__(
        self,
        root: str | Path,
        bands: Sequence[str],
        clouds: Clouds | None,
        frames: int,
        chip_px: int,
        seed: int,
        span: int,
        max_cloudy: float,
    ) -> None:
        super().__init__(frames, chip_px, seed)
        self.root, self.bands, self.clouds = Path(root) / "s2a", tuple(bands), clouds
        self.span, self.least_clear = span, frames - int(max_cloudy * frames)
        self.places = [p.name for p in folders_in(self.root)] if self.root.is_dir() else []
        if not self.places:
            raise MissingFileError(
                f"data.source={str(root)!r} is not an SSL4EO-S12 folder; it needs s2a/<place>/<scene>/"
            )
        side = side_of(self.scenes(self.places[0])[0] / file_name("B02"))
        if chip_px > side:
            raise GridError(f"places of {root} are {side} px wide; data.chip_px={chip_px} does not fit")

    @staticmethod
    def is_layout(root: str | Path) -> bool:
        """Whether a folder looks like the data set."""
        return (Path(root) / "s2a").is_dir()

    def scenes(self, place: str) -> list[Path]:
        """Folders of a place, in time."""
        found = sorted(folders_in(self.root / place), key=moment)
        if len(found) < 2:
            raise InputError(f"{self.root / place} holds {len(found)} scenes; a series needs at least 2 dates")
        return found

    def draw(self, rng: np.random.Generator) -> Clip:
        """See ClipSource; of 20 draws the first with a clear date for every frame that needs one, else the best."""
        best: tuple[int, Float[ndarray, "t c h w"], Int[ndarray, " t"]] | None = None
        for _ in range(ATTEMPTS):
            pixels, days = self.chip(rng)
            clear = int((valid_of(pixels) >= CLEAR_SHARE).sum())
            if best is None or clear > best[0]:
                best = clear, pixels, days
            if clear >= min(self.least_clear, len(days)):
                break
        assert best is not None
        return clip_of(*best[1:], self.frames, self.least_clear, rng)

    def chip(self, rng: np.random.Generator) -> tuple[Float[ndarray, "t c s s"], Int[ndarray, " t"]]:
        """A square of a place on its dates, and their days."""
        scenes = self.scenes(self.places[int(rng.integers(len(self.places)))])
        days = np.array([day_number(moment(scene)[:8]) for scene in scenes])
        chosen = within(days, self.span, rng)
        side = side_of(scenes[0] / file_name("B02"))
        top, left = (int(rng.integers(0, side - self.chip_px + 1)) for _ in range(2))
        crop = (slice(None), slice(top, top + self.chip_px), slice(left, left + self.chip_px))
        pixels = np.stack([stack(scenes[i], self.bands, side)[crop] for i in chosen]) / np.float32(10000)
        if self.clouds is not None:
            bright = pixels[:, self.bands.index(self.clouds.band)] > self.clouds.above
            np.moveaxis(pixels, 1, -1)[bright] = np.nan
        return pixels, days[chosen]

    def describe(self) -> dict[str, Any]:
        """See ClipSource."""
        return {
            "layout": "SSL4EO-S12",
            "places": len(self.places),
            "clouds": vars(self.clouds) if self.clouds else None,
        }
