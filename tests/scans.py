"""A small airborne scan with known ground, made for tests."""

import laspy
import numpy as np
from pyproj import CRS

LEFT, BOTTOM, SIDE = 770_000.0, 6_277_000.0, 48.0


def ground(x):
    """Height of the sloping ground."""
    return 100 + 0.2 * (x - LEFT)


def scene(seed=0, n=9000):
    """x, y, z, class: ground, a house 6 m high in the south-west, a wide tree in the north-east."""
    rng = np.random.default_rng(seed)
    x, y = LEFT + rng.uniform(0, SIDE, n), BOTTOM + rng.uniform(0, SIDE, n)
    z, classes = ground(x), np.full(n, 2)
    house = (x < LEFT + 18) & (y < BOTTOM + 20) & (x > LEFT + 6) & (y > BOTTOM + 4)
    z, classes = np.where(house, ground(x) + 6, z), np.where(house, 6, classes)
    far = np.hypot(x - LEFT - 34, y - BOTTOM - 34)
    tree = (far < 11) & (rng.random(n) < 0.8)
    z = np.where(tree, ground(x) + rng.uniform(2, 14, n), z)
    return x, y, z, np.where(tree, 5, classes)


def write_scan(path, x, y, z, classes, *, epsg=2154, version="1.4", point_format=6, seed=0, **more):
    """A LAS or LAZ file with 1 cm steps; ``more`` are other dimensions."""
    rng = np.random.default_rng(seed)
    header = laspy.LasHeader(version=version, point_format=point_format)
    header.offsets, header.scales = [np.floor(np.min(x)), np.floor(np.min(y)), 0], [0.01, 0.01, 0.01]
    if epsg:
        header.add_crs(CRS.from_epsg(epsg))
    las = laspy.LasData(header)
    las.x, las.y, las.z, las.classification = x, y, z, classes
    las.number_of_returns = rng.integers(1, 4, len(x))
    las.return_number = np.minimum(rng.integers(1, 4, len(x)), las.number_of_returns)
    las.intensity = rng.integers(0, 2000, len(x))
    for name, values in more.items():
        setattr(las, name, values)
    path.parent.mkdir(parents=True, exist_ok=True)
    las.write(path)
    return path
