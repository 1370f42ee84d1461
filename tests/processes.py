"""Processes of their own for tests, forked from one that has imported torch and GDAL already: that costs seconds."""

import multiprocessing
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path

import dask
import pytest

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "geossl.api.finetune",
        "geossl.api.segment",
        "geossl.api.export",
        "geossl.api.pretrain.run",
        "geossl.inference.engine.run",
        "geossl.cli.entry",
        "distributed",
        "rio_cogeo.cogeo",
        "pytest",
    ]
)


def start(function, *arguments):
    """A running process that calls a function of a module."""
    process = FORKS.Process(target=function, args=arguments)
    process.start()
    return process


@contextmanager
def forked_workers():
    """Worker processes of Dask are forked likewise, instead of started anew as a user's are."""
    forkserver.ensure_running()  # with the modules named above; Dask would name its own
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("geossl.inference.engine.workers.end_with", nothing)  # the server is their parent, and ends
        with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
            yield


def nothing(*arguments):
    """Called in a worker."""


def kill_when(process, happened):
    """End a process by force once something has happened; it must not have ended by itself."""
    while not happened():
        process.join(0.01)
        assert process.is_alive()
    process.kill()
    process.join()


def peak_memory(function, *arguments):
    """Most memory in kB that a call takes in a process of its own (Linux)."""
    ours, theirs = FORKS.Pipe(duplex=False)
    process = start(measured, theirs, function, arguments)
    theirs.close()
    peak = ours.recv()
    process.join()
    return peak


def measured(answer, function, arguments):
    function(*arguments)
    status = Path("/proc/self/status").read_text()
    answer.send(int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]))
