"""The same acquisition in other catalogues, for hosts that are down and items that cannot be read."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

from geossl import retries
from geossl.data.sentinel.offset import baseline_number
from geossl.data.stac.hrefs import Item
from geossl.data.stac.scenes import Scene, baseline_of, tile_of
from geossl.errors import Note, RunError, redact
from geossl.sensors import SENSORS

T = TypeVar("T")
SAME_S = {False: 1200.0, True: 12.0}  # optical tiles of one pass; radar slices follow each other after 25 s
TRIES = 4  # of a file that there is elsewhere, too


@dataclass(frozen=True)
class Acquisition:
    """What tells one acquisition from another, however a catalogue names it.

    Args:
        sensor: ``s1`` or ``s2``.
        platform: Such as ``sentinel-2a``; empty = not stated.
        tile: MGRS tile, Sentinel-2.
        moment: Seconds since 1970. Catalogues give the beginning of the pass or that of the tile.
        baseline: Processing baseline, Sentinel-2; None = not stated.
    """

    sensor: str
    platform: str
    tile: str
    moment: float
    baseline: float | None

    @classmethod
    def of(cls, item: Item, sensor: str) -> "Acquisition":
        """That of an item."""
        properties, is_radar = item["properties"], SENSORS[sensor].is_radar
        text = str(properties.get("datetime") or properties["start_datetime"])
        moment = datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
        platform = str(properties.get("platform", "")).lower()
        if is_radar:
            return cls(sensor, platform, "", moment, None)
        return cls(sensor, platform, tile_of(item), moment, baseline_number(baseline_of(item)))

    def is_same(self, other: "Acquisition") -> bool:
        """Whether both are of one place and pass, whatever their processing."""
        is_near = abs(self.moment - other.moment) <= SAME_S[SENSORS[self.sensor].is_radar]
        is_other = self.platform and other.platform and self.platform != other.platform
        return is_near and not is_other and self.sensor == other.sensor and self.tile == other.tile


Offer = tuple[str, str, Sequence[tuple[Acquisition, Scene]]]  # a catalogue, how it signs, what can be read of it


def merged(offers: Sequence[Offer]) -> list[Scene]:
    """Scenes of the first catalogue that has each, with those of the same acquisition and baseline elsewhere.

    Scenes that are not of the first catalogue say which they are of.
    """
    found: list[tuple[Acquisition, Scene]] = []
    for number, (catalog, sign, scenes) in enumerate(offers):
        known = len(found)
        for what, scene in scenes:
            own = scene if not number else replace(scene, catalog=redact(catalog), sign=sign)
            same = [i for i, (before, _) in enumerate(found[:known]) if before.is_same(what)]
            for i in same:
                if found[i][0].baseline == what.baseline:
                    found[i] = (found[i][0], replace(found[i][1], elsewhere=(*found[i][1].elsewhere, own)))
            if not same:
                found.append((what, own))
    return [scene for _, scene in found]


def from_any(scene: Scene, sign: str, use: Callable[[Scene, str], T]) -> T:
    """What is made of a scene's files, or of those of the same acquisition elsewhere where they cannot be read.

    Args:
        scene: The scene.
        sign: How addresses of the source's own catalogue are signed.
        use: What to make of a scene, whose addresses are signed so.

    Raises:
        RunError: That of the scene's own files, if none can be read.
    """
    own = scene.sign if scene.catalog else sign
    if not scene.elsewhere:
        return use(scene, own)
    with retries.at_most(TRIES):
        try:
            return use(scene, own)
        except RunError as error:
            first = error
        for other in scene.elsewhere:
            instead = replace(other, within=scene.within, mask=scene.mask, apart=scene.apart)
            try:
                found = use(instead, other.sign)
            except RunError:
                continue
            line = f"{scene.id} was read as {other.id} of {other.catalog}"
            warnings.warn(line, Note, stacklevel=2)
            retries.note("elsewhere", line)
            return found
    raise first
