"""How far is the ground that is found without classes from the ground class of the file?

Root mean square over all points, in metres, of the height of the ground under them: filter of
geossl.data.points.ground, and the lowest points of 5 m squares (2 percent quantile) as a simple alternative, against
the points of LAS class 2; all
three interpolated alike. Files given together (a,b) are one scan.

Run: python benchmarks/point_ground.py A.laz B1.laz,B2.laz ...
"""

import argparse
import time

import numpy as np

from geossl.data.points.ground import GroundSurface, ground_points
from geossl.data.points.las import find_files, read_scan, survey

SIDE_M, SHARE = 5.0, 0.02


def lowest(xyz):
    """A low quantile of every square, at the mean place of its points."""
    squares = np.unique(np.floor(xyz[:, :2] / SIDE_M), axis=0, return_inverse=True)[1].ravel()
    order = np.argsort(squares, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(squares[order])) + 1)
    return np.array([[*xyz[ids, :2].mean(axis=0), np.quantile(xyz[ids, 2], SHARE)] for ids in parts])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="+", help="LAS or LAZ; several of one scan with commas; sample")
    print("| scan | points | filter, m | low quantile, m | filter, CPU s |\n|---|---|---|---|---|")
    for given in parser.parse_args().scans:
        scan = read_scan([survey(path) for name in given.split(",") for path in find_files(name)], [])
        xyz, classes = scan.xyz, scan.classes
        truth, errors, start = GroundSurface(xyz[classes == 2]).at(xyz[:, :2]), [], time.process_time()
        found = ground_points(xyz)
        spent = time.process_time() - start
        for points in (found, lowest(xyz)):
            errors.append(np.sqrt(np.mean((GroundSurface(points).at(xyz[:, :2]) - truth) ** 2)))
        print(f"| {given} | {len(xyz)} | {errors[0]:.2f} | {errors[1]:.2f} | {spent:.2f} |", flush=True)


if __name__ == "__main__":
    main()
