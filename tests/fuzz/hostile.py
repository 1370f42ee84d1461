"""Hostile values for every option of every verb, made by a rule: what kind of value an option takes says what to try.

``python -m tests.fuzz.hostile FOLDER [SHARE]`` calls them all in one process and prints what is not right.
"""

import json
import os
import re
import shutil
import signal
import sys
import warnings
from collections import Counter
from pathlib import Path

import click
from click.testing import CliRunner

from geossl.cli import main

HANG_S, SERVED_S = 60, 3
PASSING = re.compile(r"(geossl: )?note: |\w+  +\d+/\d+ ")  # notes and progress, which may stand before the error
LONG = "x" * 300
PLACES = {"aoi": ".geojson", "labels": ".gpkg", "s1": ".tif", "s2": ".tif", "landsat": ".tif", "layers": ".tif",
          "encoder": ".safetensors", "model": ".safetensors", "map": ".zarr", "map_path": ".zarr", "scans": ".las",
          "before": ".zarr", "after": ".zarr", "others": ".zarr", "catalog": ".json", "dataset": ".npz",
          "source": ".tif"}  # fmt: skip
OUTPUTS = {"out", "polygons", "raster"}
ORIGINALS = {".geojson": "aoi.geojson", ".gpkg": "parcels.gpkg", ".tif": "s2.tif", ".safetensors": "croma.safetensors",
             ".zarr": "s1.tif", ".las": "scans/scan.las", ".json": "items.json", ".npz": "set.npz"}  # fmt: skip
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
    "list": {},
}  # fmt: skip


def bad_files(good, folder):
    """Files that are not what their names say, by ending; links, folders and pipes, too."""
    folder.mkdir()
    found = {}
    for end, original in ORIGINALS.items():
        data, other = (good / original).read_bytes(), good / ("scans/scan.las" if end != ".las" else "s2.tif")
        contents = {
            "empty": b"",
            "noise": os.urandom(5000),
            "cut": data[: len(data) // 3],
            "text": b"hello\n" * 50,
            "other": other.read_bytes(),
            "zeros": bytes(4096),
            "html": b"<!DOCTYPE html><html>404</html>",
        }
        for name, content in contents.items():
            (folder / f"{name}{end}").write_bytes(content)
        (folder / f"folder{end}").mkdir()
        (folder / f"loop{end}").symlink_to(folder / f"loop{end}")
        (folder / f"gone{end}").symlink_to(folder / "nowhere")
        os.mkfifo(folder / f"pipe{end}")
        names = [*contents, "folder", "loop", "gone", "pipe"]
        found[end] = [str(folder / f"{name}{end}") for name in names]
    return found


def odd_paths(end):
    """Texts that are no path, or lead where no file is."""
    web = [f"https://host.invalid/a{end}", f"s3://bucket/a{end}", f"/vsicurl/https://host.invalid/a{end}"]
    return ["", " ", f"none/x{end}", f"a\0{end}", LONG + end, f"\udcff{end}", "/", ".", "..", "/dev/null", "~x", *web]


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


def listing(*folders):
    """All paths below folders, with sizes and times."""
    return {(p, p.lstat().st_size if not p.is_dir() else 0) for f in folders for p in f.rglob("*")}


def judge(words, work, watched):
    """Call a command line; what came of it, and what is wrong with that."""

    def hung(*_):
        raise KeyboardInterrupt if words[0] == "view" else TimeoutError(f"more than {HANG_S} s")

    before, old = listing(work, *watched), signal.signal(signal.SIGALRM, hung)
    signal.alarm(SERVED_S if words[0] == "view" else HANG_S)
    try:
        with warnings.catch_warnings():
            done = CliRunner().invoke(main, words)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
    lines = [line for line in done.stderr.splitlines() if line.strip() and not PASSING.match(line)]
    after = listing(work, *watched)
    if done.exit_code == 0:
        return "accepted", "Traceback" if "Traceback" in done.output else "", done.output[-200:]
    wrong = ""
    if done.exit_code != 2:
        wrong = f"exit {done.exit_code}"
    elif len(lines) != 1 or not lines[0].startswith("geossl: "):
        wrong = f"{len(lines)} lines"
    elif "Traceback" in done.output or "fault of geossl" in done.output:
        wrong = "fault"
    elif left := after - before:
        wrong = f"left {sorted(str(p) for p, _ in left)[:3]}"
    return "refused", wrong, done.stderr[-400:]


def run(good, share=1):
    """Try every ``share``-th case; prints a line of JSON for each, and a count."""
    root = good.parent / "tries"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    work = root / "work"
    counts = Counter()
    os.environ["XDG_STATE_HOME"] = str(root / "state")
    for number, (verb, name, value, words) in enumerate(cases(good, root / "bad")):
        if number % share:
            continue
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        os.chdir(work)
        outcome, wrong, said = judge(words, work, [good])
        counts[verb, outcome, bool(wrong)] += 1
        print(json.dumps({"verb": verb, "option": name, "value": value[:60], "outcome": outcome, "wrong": wrong,
                          "said": said}), flush=True)  # fmt: skip
    return counts


if __name__ == "__main__":
    sys.set_int_max_str_digits(0)
    for key, number in run(Path(sys.argv[1]).resolve(), int((sys.argv[2:] or ["1"])[0])).items():
        print(number, *key, file=sys.stderr)
