"""Hostile values for every option of every verb; what kind of value an option takes says what to try."""

import re
import warnings

import click
from click.testing import CliRunner

from geossl.cli import main
from tests.fuzz.attempts import HANG_S, LONG, OUTPUTS, attempt, bad_files, limited, listing, odd_paths

SERVED_S = 3
PASSING = re.compile(r"(geossl: )?note: |\w+  +\d+/\d+ |step \d+/\d+ ")  # notes and progress, which may stand before
PLACES = {"aoi": ".geojson", "labels": ".gpkg", "s1": ".tif", "s2": ".tif", "landsat": ".tif", "layers": ".tif",
          "encoder": ".safetensors", "model": ".safetensors", "map": ".zarr", "map_path": ".zarr", "scans": ".las",
          "before": ".zarr", "after": ".zarr", "others": ".zarr", "catalog": ".json", "dataset": ".npz",
          "source": ".tif", "points": ".csv"}  # fmt: skip
WORDS = ["", " ", "no such", LONG, "\0", "a,b,,", "NaN", "{}", "[", "-1", "../x", "\udcff", "'; DROP", "=", "%s", "\n"]
COUNTS = ["-1", "0", "1e3", "nan", "inf", "", "x", "1.5", "99999999999999999999", "None", "0x10", " "]
DATES = ["", "2024-13", "2024-06-31", "yesterday", "2024-06/2024-01", "2024-06/", "/", "0000", "9999-99", "1e3", LONG,
         "2024/06", "2024-6", "-1", "2024-06/2024-07/2024-08", "1066-10-14"]  # fmt: skip
PLACE_TEXTS = ["", "3", "a,b", "nan,nan", "3,inf", "999,999", "3,41,5", "41.5;3", "0,0", "none.geojson", LONG]
VERBS = {  # what is right, by verb; "{}" stands for the folder of good files
    "pretrain": {"recipe_name": "croma"},
    "fetch": {"aoi": "{}/aoi.geojson", "date": "2024-06", "catalog": "{}/items.json", "out": "scenes"},
    "embed": {"aoi": "{}/aoi.geojson", "s1": "{}/s1.tif", "s2": "{}/s2.tif", "encoder": "{}/croma.safetensors",
              "out": "m.zarr"},
    "finetune": {"labels": "{}/parcels.gpkg", "column": "crop", "s1": "{}/s1.tif", "s2": "{}/s2.tif",
                 "encoder": "{}/croma.safetensors", "out": "model.safetensors"},
    "segment": {"aoi": "{}/aoi.geojson", "s1": "{}/s1.tif", "s2": "{}/s2.tif", "model": "{}/model.safetensors",
                "out": "classes.tif"},
    "segment --map": {"map": "{}/map.zarr", "classes": "3", "out": "classes.tif"},
    "anomaly": {"aoi": "{}/aoi.geojson", "s2": "{}/s2.tif", "encoder": "{}/ae.safetensors", "out": "a.tif"},
    "points embed": {"scans": "{}/scans", "encoder": "{}/points.safetensors", "out": "e.tif"},
    "points finetune": {"scans": "{}/scans", "encoder": "{}/points.safetensors", "out": "p.safetensors",
                        "max_steps": "1"},
    "points classify": {"scans": "{}/scans", "model": "{}/points_model.safetensors", "out": "c.laz"},
    "series embed": {"source": "{}/dates", "encoder": "{}/series.safetensors", "out": "s.tif"},
    "graphs cluster": {"encoder": "{}/graph.safetensors", "classes": "3", "out": "n.gpkg"},
    "change": {"before": "{}/map.zarr", "after": "{}/map.zarr", "out": "c.tif"},
    "similar": {"map_path": "{}/map.zarr", "to": "3.004,41.546", "out": "s.tif"},
    "view": {"map_path": "{}/map.zarr", "port": "0", "browser": ""},
    "export": {"map": "{}/map.zarr", "out": "m.tif"},
    "evaluate": {"encoder": "{}/croma.safetensors", "dataset": "{}/set.npz", "out": "r.html"},
    "sample": {"map_path": "{}/map.zarr", "points": "{}/points.csv", "out": "p.csv"},
    "verify": {"map_path": "{}/map.zarr", "encoder": "{}/croma.safetensors", "s1": "{}/s1.tif", "s2": "{}/s2.tif"},
    "list": {},
}  # fmt: skip


def values_of(parameter, files):
    """What to try for an option."""
    name = parameter.name
    if name in PLACES:
        return [*files[PLACES[name]], *odd_paths(PLACES[name]), "/dev/zero", "/proc/self/mem"]
    if name in OUTPUTS:
        end = ".gpkg" if name == "polygons" else ".tif"
        more = ["x.txt", "x", f"/proc/x{end}", f"x.zarr/y{end}", f"{files['file']}/x{end}", "/dev/full"]
        return [*odd_paths(end), *more]
    if name in ("date", "start", "end"):
        return DATES
    if name == "to":
        return PLACE_TEXTS
    if isinstance(parameter.type, click.types.IntParamType | click.types.FloatParamType):
        return COUNTS
    return WORDS


def cases(good, bad):
    """(verb, option, value, words typed) for every option of every verb that takes a value."""
    files = bad_files(good, bad) | {"file": str(good / "aoi.geojson")}
    for verb, base in VERBS.items():
        command = main
        for word in verb.split(" --")[0].split():
            command = command.commands[word]
        known = {parameter.name: parameter for parameter in command.params}
        for name, parameter in known.items():
            if getattr(parameter, "is_flag", False) or name == "overrides":
                continue
            for value in values_of(parameter, files):
                yield verb, name, value, typed(verb, known, {**base, name: value}, good)


def typed(verb, known, values, good):
    """The words of a command line."""
    words = verb.split(" --")[0].split()
    for name, value in values.items():
        text = value.replace("{}", str(good))
        if name not in known:
            words.append("--no-browser")
        else:
            words += [text] if isinstance(known[name], click.Argument) else [known[name].opts[0], text]
    return words


def judge(verb, words, watched):
    """Call a command line; what came of it, and what is wrong with that."""
    before, is_served = listing(*watched), verb == "view"
    seconds, stop = (SERVED_S, KeyboardInterrupt) if is_served else (HANG_S, TimeoutError)
    with limited(seconds, stop), warnings.catch_warnings():
        done = CliRunner().invoke(main, words)
    lines = [line for line in done.stderr.splitlines() if line.strip() and not PASSING.match(line)]
    if done.exit_code == 0:
        return "accepted", "Traceback" if "Traceback" in done.output else "", done.output[-200:]
    wrong = ""
    is_host = done.exit_code == 1 and "cannot be read" in done.stderr and any("://" in str(word) for word in words)
    if done.exit_code != 2 and not is_host:  # of what lies elsewhere, nobody knows whose fault it is
        wrong = f"exit {done.exit_code}"
    elif len(lines) != 1 or not lines[0].startswith("geossl: "):
        wrong = f"{len(lines)} lines"
    elif "Traceback" in done.output or "fault of geossl" in done.output:
        wrong = "fault"
    elif left := listing(*watched) - before:
        wrong = f"left {sorted(str(p) for p, _ in left)[:3]}"
    return "refused", wrong, done.stderr[-400:]


NAME = "tries"

if __name__ == "__main__":
    attempt(NAME, cases, judge)
