"""What the hostile suites share: odd values, files that are not what they say, and the loop that tries them.

A suite gives ``attempt`` the cases; ``python -m tests.fuzz.SUITE FOLDER [SHARE [FIRST]]`` tries every ``SHARE``-th of
them in one process, from number ``FIRST`` on, and prints a line of JSON for each.
"""

import json
import os
import resource
import shutil
import signal
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

HANG_S = 60
MEMORY_BYTES = 24 << 30  # of addresses; what asks for more is told so, and other programs of the machine keep theirs
LONG = "x" * 300
OUTPUTS = {"out", "polygons", "raster"}
ORIGINALS = {".geojson": "aoi.geojson", ".gpkg": "parcels.gpkg", ".tif": "s2.tif", ".safetensors": "croma.safetensors",
             ".zarr": "s1.tif", ".las": "scans/scan.las", ".json": "items.json", ".npz": "set.npz",
             ".csv": "aoi.geojson"}  # fmt: skip


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
    """Texts that are no path, or lead where no file is, or none can be written."""
    web = [f"https://host.invalid/a{end}", f"s3://bucket/a{end}", f"/vsicurl/https://host.invalid/a{end}"]
    return [
        "",
        " ",
        f"none/x{end}",
        f"a\0{end}",
        LONG + end,
        f"\udcff{end}",
        "/proc",
        ".",
        "..",
        "/dev/null",
        "~x",
        *web,
    ]


def listing(*folders):
    """All paths below folders, with sizes."""
    return {(p, p.lstat().st_size if not p.is_dir() else 0) for f in folders for p in f.rglob("*")}


@contextmanager
def limited(seconds, error=TimeoutError):
    """Raise an error in what takes longer."""

    def hung(*_):
        raise error(f"more than {seconds} s")

    old = signal.signal(signal.SIGALRM, hung)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


def attempt(name, cases, judge):
    """Try the cases that the command line asks for.

    Args:
        name: Of the suite, for its folder.
        cases: Function of the folder of good files and one of bad ones to be made; yields verb, option, value, and
            what ``judge`` takes.
        judge: Calls geossl; returns the outcome, what is wrong with it, and what was said.
    """
    folder, share, first = (*sys.argv[1:], "1", "0")[:3] if len(sys.argv) < 4 else sys.argv[1:4]
    attempt_share(name, cases, judge, Path(folder).resolve(), int(share), int(first))


def attempt_share(name, cases, judge, good, share, first=0):
    """The same for every ``share``-th case from number ``first`` on."""
    root = good.parent / name
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    work = root / "work"
    os.environ["XDG_STATE_HOME"] = str(root / "state")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    sys.set_int_max_str_digits(0)
    warnings.simplefilter("ignore")
    for number, (verb, option, value, call) in enumerate(cases(good, root / "bad")):
        if number < first or (number - first) % share:
            continue
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        os.chdir(work)
        outcome, wrong, said = judge(verb, call, [work, good])
        found = {"verb": verb, "option": option, "value": (value if isinstance(value, str) else repr(value))[:60]}
        print(json.dumps({**found, "outcome": outcome, "wrong": wrong, "said": said}), flush=True)
