"""Heartbeats: one row per process, which says when the process last worked on its run. They tell which runs died.

`end_unfinished` fails what a dead process left unfinished.
"""

import atexit
import json
import logging
import math
import os
import threading
import time
import weakref
from datetime import datetime
from functools import partial
from typing import Any, Callable, Collection, Dict, Iterable, List, NamedTuple, Optional, Sequence

from magnus.defaults import FAIL

from magnus_peewee_store import fragments
from magnus_peewee_store.db.interrupts import is_interrupt
from magnus_peewee_store.db.queries import Types
from magnus_peewee_store.db.table import LogTable, Row
from magnus_peewee_store.origin import installed_packages, parse_origin, this_process
from magnus_peewee_store.times import from_created_at, local_utc_offset, parse_time, to_created_at, utcnow

logger = logging.getLogger("magnus.db")

INTERRUPTED = "interrupted"
ENVIRONMENT_KEY = "packages"
WRITE_TIMEOUT = 1.0  # seconds that a heartbeat waits for the connection
RETRIES = 10  # the number of attempts per interval after a heartbeat has failed


class Beat(NamedTuple):
    """What a row of type Heartbeat holds."""

    seen: str
    """When the process last worked, in UTC by the database's clock."""
    interval: float
    """How many seconds later the next heartbeat is due."""
    state: str
    """Empty, or `interrupted` if the process exited before the run ended."""
    user: Optional[str]
    host: Optional[str]
    utc_offset: Optional[int]
    """The offset of its local time from UTC, in seconds; None if it changed during the run."""

    @property
    def time(self) -> datetime:
        """When the process last worked, as the column created_at stores a time."""
        return datetime.fromisoformat(self.seen)


def parse_beat(row: Row) -> Optional[Beat]:
    """Return what a row of type Heartbeat holds; None if it cannot be read."""
    try:
        value = fragments.parse(*row)
        seen, interval, origin = parse_time(value["seen"], 0), float(value["interval"]), parse_origin(value)
        if seen is None or not 0 < interval < math.inf:
            return None
        return Beat(
            str(to_created_at(seen)), interval, str(value["state"]), origin.user, origin.host, origin.utc_offset
        )
    except (KeyError, *fragments.PARSE_ERRORS):
        return None


class Heartbeat:
    """Keep the heartbeat row of this process up to date while it works on a run.

    The first write to a run starts a daemon thread, which updates the row. In the process that started the run, the
    thread first writes the installed packages. The thread stops when the run ends or the process exits. It uses the
    store's connection only while no other thread does. An error is logged and never reaches the pipeline. A forked
    child starts its own heartbeat when it first writes. `interval` is in seconds. `is_executing` returns whether magnus
    executes a run, given by its id, in this process.
    """

    def __init__(self, interval: float, is_executing: Callable[[str], bool]) -> None:
        self.interval = interval
        self._is_executing = is_executing
        self.reset()
        _heartbeats.add(self)

    def reset(self) -> None:
        """Forget the run. A forked child calls this: the thread and the row belong to its parent."""
        self.should_record_interruption = False
        self.run_without_environment = ""  # the id of a run that this process started and must describe
        self._lock = threading.Lock()
        self._run_id = ""
        self._thread: Optional[threading.Thread] = None
        self._stopping = threading.Event()

    def after_write(self, table: LogTable, run_id: str, has_ended: bool = False) -> None:
        """Start with the first write to a run, and stop with the write that ends it."""
        if run_id == self._run_id and not has_ended:
            return
        with self._lock:
            if run_id != self._run_id:
                self.stop()
                self._run_id, self._table = run_id, table
                if not has_ended and self.interval:
                    self._start(run_id)
            elif has_ended:
                self.stop()
            if has_ended:
                self._write_environment()

    def stop(self) -> None:
        """Stop. The row stays, so that pipelines need no right to delete rows."""
        thread, self._thread = self._thread, None
        self._stopping.set()
        if thread:
            thread.join(2 * WRITE_TIMEOUT)

    def close(self) -> None:
        """Stop, until the next write to a run."""
        self.stop()
        self._run_id = ""

    def finish(self) -> None:
        """Stop because the process exits, and record whether that interrupted the run."""
        was_running = self._thread is not None
        self.stop()
        if was_running and self.should_record_interruption and not self._beat(INTERRUPTED):
            # What interrupted the run may have interrupted the connection, too. The second attempt opens a new one.
            self._beat(INTERRUPTED)
        if was_running:
            self._write_environment()

    def _start(self, run_id: str) -> None:
        self._origin = this_process()
        self._key = f"{self._origin.host} {os.getpid()} {utcnow().isoformat()}"
        self._stopping = threading.Event()
        self._beat()
        try:
            self._thread = threading.Thread(
                target=self._run, args=(self._stopping,), name="magnus-heartbeat", daemon=True
            )
            self._thread.start()
        except RuntimeError as error:  # The interpreter is shutting down, or the system allows no more threads.
            logger.debug("The heartbeat of run '%s' cannot start: %s", run_id, error)
            self._thread = None

    def _run(self, stopping: threading.Event) -> None:
        pause = self.interval
        self._write_environment()
        # A notebook may start another run after the user has interrupted this one.
        while not stopping.wait(pause) and self._is_executing(self._run_id):
            pause = self.interval if self._beat() else self.interval / RETRIES

    def _beat(self, state: str = "") -> bool:
        """Write the heartbeat, and return whether that succeeded."""

        def make_row(now: datetime) -> Row:
            origin = self._origin
            # Times that magnus wrote before and after a change to daylight saving time cannot be told apart.
            utc_offset = origin.utc_offset if origin.utc_offset == local_utc_offset() else None
            beat = Beat(str(now), self.interval, state, origin.user, origin.host, utc_offset)
            return fragments.HEARTBEAT[0], self._key, json.dumps(beat._asdict())

        return self._write(make_row)

    def _write_environment(self) -> None:
        """Write the installed packages, once, if this process started the run."""
        if self._run_id and self.run_without_environment == self._run_id:
            row = (fragments.ENVIRONMENT[0], ENVIRONMENT_KEY, json.dumps(installed_packages()))
            if self._write(lambda now: row):
                self.run_without_environment = ""

    def _write(self, make_row: Callable[[datetime], Row]) -> bool:
        try:
            with _fork_lock.current:
                # The run's own row is required. Otherwise a heartbeat could be written after the run was deleted.
                self._table.upsert_once(self._run_id, make_row, [fragments.HEADER], WRITE_TIMEOUT)
            return True
        except BaseException as error:  # A heartbeat must not disturb the run, whatever goes wrong.
            if is_interrupt(error):
                self._run_id = ""  # The next write starts the heartbeat again.
                raise
            logger.debug("A heartbeat of run '%s' failed: %s", self._run_id, error)
            return False


class _ForkLock:
    """A lock that prevents a fork while a heartbeat is written.

    A fork copies the locks inside of database drivers in their current state. A lock that the heartbeat's thread holds
    would stay locked in the child forever.
    """

    def __init__(self) -> None:
        self.current = threading.Lock()
        self._is_held = False

    def before_fork(self) -> None:
        # A heartbeat that takes longer is waiting for a server. Meanwhile it holds no lock of the driver.
        self._is_held = self.current.acquire(timeout=2 * WRITE_TIMEOUT)

    def after_fork_in_parent(self) -> None:
        if self._is_held:
            self.current.release()

    def after_fork_in_child(self) -> None:
        self.current = threading.Lock()
        for heartbeat in _heartbeats:
            heartbeat.reset()


def _finish_all() -> None:
    for heartbeat in list(_heartbeats):
        heartbeat.finish()


_heartbeats: "weakref.WeakSet[Heartbeat]" = weakref.WeakSet()
_fork_lock = _ForkLock()

# Stop before the interpreter shuts down: a daemon thread must not be inside of a driver at that time.
atexit.register(_finish_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_fork_lock.before_fork,
        after_in_parent=_fork_lock.after_fork_in_parent,
        after_in_child=_fork_lock.after_fork_in_child,
    )


LONGEST_WATCH = 60.0  # seconds

# A run is stale if three heartbeats are missing. A heartbeat counts as missing half an interval after it was due.
STALE_INTERVALS = 3.5


class Liveness(NamedTuple):
    """When an unfinished run was last seen. A run that has ended or has no heartbeats has the default values."""

    last_seen: Optional[datetime] = None
    """When a process last worked on it, in UTC by the database's clock."""
    silence: Optional[float] = None
    """How many seconds ago that was."""
    is_stale: Optional[bool] = None
    """Whether three heartbeats are missing, or the run was interrupted."""
    is_interrupted: bool = False
    """Whether the process that ran the pipeline exited before the run ended."""


DIED = ("STALE", "INTERRUPTED")  # the states that are not statuses of magnus


def state_of(status: str, is_stale: Optional[bool], is_interrupted: bool) -> str:
    """Return `STALE` or `INTERRUPTED` for an unfinished run that died, otherwise its status."""
    return "INTERRUPTED" if is_interrupted else "STALE" if is_stale else status


def beats_of(rows: Iterable[Row]) -> List[Beat]:
    """Return the heartbeats among rows of a run, oldest first. Rows that cannot be read are left out."""
    beats = (parse_beat(row) for row in rows if row[0] in fragments.HEARTBEAT)
    return [beat for beat in beats if beat]


def newest_of(beats: Iterable[Beat]) -> Optional[Beat]:
    """Return the newest heartbeat; None without heartbeats."""
    return max(beats, key=lambda beat: beat.time, default=None)


def time_of_last(beats: Iterable[Beat]) -> Optional[datetime]:
    """Return the time of the last heartbeat; None without heartbeats."""
    newest = newest_of(beats)
    return from_created_at(newest.time) if newest else None


def liveness_of(beats: Sequence[Beat], now: datetime) -> Liveness:
    """Return when an unfinished run was last seen, given its heartbeats and the time by the database's clock."""
    newest = newest_of(beats)
    if not newest:
        return Liveness()
    is_interrupted = newest.state == INTERRUPTED
    is_silent = all(_age(beat, now) > STALE_INTERVALS * beat.interval for beat in beats)
    return Liveness(from_created_at(newest.time), _age(newest, now), is_interrupted or is_silent, is_interrupted)


def _age(beat: Beat, now: datetime) -> float:
    return max(0.0, (now - beat.time).total_seconds())


def is_seen_again(table: LogTable, run_id: str) -> bool:
    """Wait until a process works on an unfinished run, at most for one interval between its heartbeats.

    A laptop may have been suspended. After waking, a living process writes its next heartbeat within the interval.
    Return False at once if the run has no heartbeats, or recorded its interruption.
    """
    seen = table.read(run_id, fragments.HEARTBEAT)
    newest = newest_of(beats_of(seen))
    if newest is None or newest.state == INTERRUPTED:
        return False
    wait = min(newest.interval + WRITE_TIMEOUT, LONGEST_WATCH)
    give_up_at = time.monotonic() + wait
    while time.monotonic() < give_up_at:
        time.sleep(min(wait / 10, WRITE_TIMEOUT))
        if table.read(run_id, fragments.HEARTBEAT) != seen:
            return True
    return False


def end_unfinished(
    table: LogTable,
    run_id: str,
    changes_of: Callable[[str, Dict[str, Any]], Dict[str, Any]],
    types: Types = fragments.BRANCH + fragments.STEP,
    names: Optional[Collection[str]] = None,
) -> List[str]:
    """Fail the unfinished steps and branches of a run, or those with these internal names. Return their names.

    Rows that cannot be read stay as they are, and so do rows that a process has ended in the meantime. `changes_of`
    returns what changes in a log besides its status, given its attribute_type and its JSON object.
    """

    def fail(attribute_type: str, value: str) -> str:
        log = json.loads(fragments.scrub_row(attribute_type, value))
        is_unfinished = log.get("status") not in fragments.ENDED
        return json.dumps({**log, **changes_of(attribute_type, log), "status": FAIL}) if is_unfinished else value

    ended = []
    newest = {row[:2]: row for row in table.read(run_id, types)}  # A legacy table may have a row twice.
    for row in newest.values():
        log = fragments.parse_or_none(*row)
        if log and log.status not in fragments.ENDED and (names is None or row[1] in names):
            table.update(run_id, (row[0],), row[1], partial(fail, row[0]))
            ended.append(row[1])
    return ended
