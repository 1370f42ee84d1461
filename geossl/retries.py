"""How a host that fails is asked again: one rule for searches, signatures and reads, shared by the workers of a run.

What may pass is tried again after a wait that doubles each time, of which between half and all is drawn so that
workers do not come back at once, and never before the moment a host names in ``Retry-After``. A run has a budget:
``RESERVE`` tries again, and one more for every ``ANSWERS`` answers. A host that stumbles may do so for days; one that
is down ends the run soon, however many workers ask it.
"""

import os
import random
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
TRIES = 12  # of one read: about five minutes of waiting
FIRST_TRIES = 3  # before anything has been read: a wrong address should be answered soon
SEARCH_TRIES = 5
FIRST_WAIT_S = 0.5  # doubled each time
LONGEST_WAIT_S = 60.0
LONGEST_HOLD_S = 900.0  # a host that asks to be left alone for longer is given up for now
RESERVE = 300  # tries again that a run has at first
ANSWERS = 10  # that earn one more
DAMAGED_AFTER = 4  # reads that fail though the host gives the bytes: the file itself is cut off or damaged
REFUSED_AFTER = 4  # answers 401 or 403, each under a new signature
BUSY = {408, 425, 429, 500, 502, 503, 504}
GONE = {400, 404, 405, 410, 416}
REFUSED = {401, 403}
ANSWER_S = 30  # seconds a host may take to answer the question what is wrong


class GaveUp(Exception):
    """A host is not asked any more in this run; says why."""


@dataclass
class Clock:
    """Time, waiting and chance, as tests replace them."""

    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    draw: Callable[[], float] = random.Random().random


CLOCK = Clock()


@dataclass(frozen=True)
class Answer:
    """What a host said: its status, 0 = nothing, and for how many seconds it asks to be left alone, 0 = it does not."""

    status: int = 0
    after_s: float = 0.0

    @property
    def words(self) -> str:
        """For a message."""
        return f"HTTP {self.status}" if self.status else "no answer"


@dataclass
class Budget:
    """Tries again that are left to a run, and hosts that it leaves alone for now.

    Args:
        folder: Of the run, where its workers on all machines write what they used; None = this process alone.
    """

    folder: Path | None = None
    used: int = 0
    answers: int = 0
    held: dict[str, float] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def left(self) -> int:
        """Tries again that are left."""
        if self.folder is None:
            return RESERVE + self.answers // ANSWERS - self.used
        return RESERVE + size_of(self.folder / "earned") - size_of(self.folder / "used")

    def spend(self, host: str, said: str) -> None:
        """Count a try again.

        Raises:
            GaveUp: If none is left.
        """
        with self.lock:
            if self.left <= 0:
                raise GaveUp(
                    f"{host} failed too often in this run ({said} last; {RESERVE} tries again and one for every "
                    f"{ANSWERS} answers are used up); run again later to resume"
                )
            self.used += 1
            if self.folder is not None:
                append(self.folder / "used")

    def earn(self) -> None:
        """Count an answer."""
        with self.lock:
            self.answers += 1
            if self.folder is not None and self.answers % ANSWERS == 0:
                append(self.folder / "earned")

    def hold(self, host: str, seconds: float) -> None:
        """Leave a host alone for so long, all workers."""
        until = CLOCK.now() + seconds
        self.held[host] = max(until, self.held.get(host, 0.0))
        if self.folder is not None:
            try:
                (self.folder / held_name(host)).write_text(f"{self.held[host]:.3f}")
            except OSError:  # the others find out for themselves
                return

    def wait(self, host: str) -> None:
        """Wait until a host may be asked again."""
        until = self.held.get(host, 0.0)
        if self.folder is not None:
            with suppress(OSError, ValueError):  # nobody holds it, or is about to
                until = max(until, float((self.folder / held_name(host)).read_text()))
        if (seconds := min(until - CLOCK.now(), LONGEST_HOLD_S)) > 0:
            CLOCK.sleep(seconds)


RUN: ContextVar[Budget | None] = ContextVar("RUN", default=None)
MOST: ContextVar[int] = ContextVar("MOST", default=TRIES)
BUDGETS: dict[Path, Budget] = {}


@contextmanager
def shared(folder: Path | None) -> Iterator[Budget]:
    """Draw on one budget in what is read within: that of a run's folder, or a new one of this process."""
    budget = Budget() if folder is None else BUDGETS.setdefault(folder, Budget(folder))
    token = RUN.set(budget)
    try:
        yield budget
    finally:
        RUN.reset(token)


@contextmanager
def at_most(tries: int) -> Iterator[None]:
    """Try less often within: there is another way."""
    token = MOST.set(tries)
    try:
        yield
    finally:
        MOST.reset(token)


def note(name: str, line: str) -> None:
    """Write a line to a file of the run's folder, once; nothing where a run has none."""
    budget = RUN.get()
    if budget is None or budget.folder is None:
        return
    path = budget.folder / name
    with budget.lock, suppress(OSError):
        if not path.exists() or line not in path.read_text().splitlines():
            with path.open("a") as file:
                file.write(f"{line}\n")


def begin(folder: Path) -> None:
    """Give a run its whole budget; called once, before its workers start."""
    BUDGETS.pop(folder, None)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.name in ("used", "earned") or path.name.startswith("hold_"):
                path.unlink()
    except OSError:  # a full or read-only disk says so where the map is written
        return


def tried(
    ask: Callable[[int], T],
    host: str,
    answer: Callable[[Exception], Answer],
    errors: tuple[type[Exception], ...],
    tries: int = TRIES,
) -> T:
    """Call until it answers; the last error is raised as it is.

    Args:
        ask: What to do the how-manieth time.
        host: Whom it asks.
        answer: What the host says to an error.
        errors: Those that may pass.
        tries: How often.

    Raises:
        GaveUp: If the run's budget is used up, or the host asks to be left alone for too long.
    """
    budget, healthy, refused, tries = RUN.get() or Budget(), 0, 0, min(tries, MOST.get())
    for attempt in range(tries):
        budget.wait(host)
        try:
            found = ask(attempt)
        except errors as error:
            said = answer(error)
            healthy, refused = healthy + (said.status in (200, 206)), refused + (said.status in REFUSED)
            is_final = said.status in GONE or healthy >= DAMAGED_AFTER or refused >= REFUSED_AFTER
            if is_final or attempt == tries - 1:
                if healthy >= DAMAGED_AFTER:
                    error.add_note("cut off or damaged at its host")
                raise
            budget.spend(host, said.words)
            if said.after_s > LONGEST_HOLD_S:
                raise GaveUp(f"{host} asks to be left alone for {said.after_s:.0f} s; run again then") from None
            if said.after_s:
                budget.hold(host, said.after_s)
            longest = min(FIRST_WAIT_S * 2**attempt, LONGEST_WAIT_S)
            CLOCK.sleep(longest * (0.5 + CLOCK.draw() / 2))
        else:
            budget.earn()
            return found
    raise AssertionError("tries is at least 1")


def answer_of(address: str, error: Exception) -> Answer:
    """What a host says of a file that could not be read, asked for its first byte; signed addresses refuse HEAD."""
    found = re.search(r"(?:response_?code|HTTP)\D{0,12}(\d{3})\b", str(error), re.IGNORECASE)
    status = int(found[1]) if found else 0
    if not address.lower().startswith(("http://", "https://")):
        return Answer(status)
    request = urllib.request.Request(address, headers={"Range": "bytes=0-0"})
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
            return Answer(int(answer.status))
    except urllib.error.HTTPError as refusal:
        return Answer(refusal.code, seconds_of(refusal.headers.get("Retry-After")))
    except (OSError, ValueError):
        return Answer(status)


def seconds_of(text: str | None) -> float:
    """Seconds that ``Retry-After`` asks for, given as such or as a date; 0 if it cannot be read."""
    if text is None:
        return 0.0
    if text.strip().isdigit():
        return float(text)
    try:
        return max(parsedate_to_datetime(text).timestamp() - CLOCK.now(), 0.0)
    except (TypeError, ValueError):
        return 0.0


def held_name(host: str) -> str:
    """Name of the file that says until when a host is left alone."""
    return "hold_" + re.sub(r"[^A-Za-z0-9.-]", "_", host)[:100]


def size_of(path: Path) -> int:
    """Bytes of a file; 0 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def append(path: Path) -> None:
    """Make a file a byte longer, whoever else does so now; a disk that refuses leaves this process its own count."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, b".")
        finally:
            os.close(file)
    except OSError:
        return
