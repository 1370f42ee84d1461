"""Where pixels come from: the seam between the map engine and files, catalogues or memory."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import shapely
import xarray as xr
from odc.geo.geobox import GeoBox

from geossl.errors import BandError
from geossl.models.encoder import DenseSpec


@runtime_checkable
class Source(Protocol):
    """Gives aligned pixels of any place; a plain value that can be sent to a worker."""

    @property
    def sensors(self) -> tuple[str, ...]:
        """Sensors it has, keys of ``geossl.sensors.SENSORS``."""

    @property
    def dated(self) -> bool:
        """Whether ``load`` gives ``date``, too."""

    def describe(self) -> dict[str, Any]:
        """JSON values that change when the pixels do."""

    def footprints(self, crs: str | int) -> dict[str, shapely.Geometry]:
        """Area each sensor may have pixels in."""

    def load(self, geobox: GeoBox) -> xr.Dataset:
        """Per sensor an array such as ``s2 (s2_band, y, x)``, float32 in its unit, NaN = not usable.

        A composite of several dates adds ``date (y, x)`` uint16: days since 2000-01-01, 0 = none.
        """


def check_sensors(sensors: tuple[str, ...], spec: DenseSpec) -> None:
    """Refuse sensors an encoder does not know."""
    unknown = [name for name in sensors if name not in spec.sensors]
    if unknown or not sensors:
        raise BandError(f"encoder {spec.name} takes {', '.join(spec.sensors)}, not {', '.join(unknown) or 'nothing'}")


def images(cube: xr.Dataset, spec: DenseSpec) -> dict[str, Any]:
    """Arrays (NumPy or Dask) by sensor in the encoder's band order, which is found by name, never by position.

    Raises:
        BandError: If a band is missing.
    """
    found = {}
    for name in [n for n in spec.sensors if n in cube]:
        array, bands = cube[name], list(spec.sensors[name].bands)
        axis = f"{name}_band"
        have = [str(b) for b in array[axis].values] if axis in array.coords else []
        missing = [b for b in bands if b not in have]
        if missing:
            raise BandError(
                f"{name} lacks {', '.join(missing)} for encoder {spec.name}; coordinate {axis} has {', '.join(have)}"
            )
        found[name] = array.sel({axis: bands}).transpose(axis, ...).data.astype(np.float32)
    return found


@dataclass(frozen=True)
class OnlySensors:
    """Some sensors of another source.

    Args:
        source: Where pixels come from.
        names: Sensors that are left.
    """

    source: Source
    names: tuple[str, ...]

    @property
    def sensors(self) -> tuple[str, ...]:
        """Those that are left."""
        return self.names

    @property
    def dated(self) -> bool:
        """As the source."""
        return self.source.dated

    def describe(self) -> dict[str, Any]:
        """As the source."""
        return {**self.source.describe(), "only": list(self.names)}

    def footprints(self, crs: str | int) -> dict[str, shapely.Geometry]:
        """Of what is left."""
        return {name: area for name, area in self.source.footprints(crs).items() if name in self.names}

    def load(self, geobox: GeoBox) -> xr.Dataset:
        """Without the others."""
        cube = self.source.load(geobox)
        return cube.drop_vars([name for name in self.source.sensors if name in cube and name not in self.names])
