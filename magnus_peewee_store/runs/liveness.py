"""Whether somebody still works on a run: what its heartbeats say."""

from datetime import datetime
from typing import Iterable, List, NamedTuple, Optional

from magnus_peewee_store import fragments
from magnus_peewee_store.db.table import Row
from magnus_peewee_store.heartbeat import INTERRUPTED, Beat, parse_beat
from magnus_peewee_store.times import from_created_at

# The third heartbeat is missed when it is late, and late is half an interval after it was due.
STALE_INTERVALS = 3.5


class Liveness(NamedTuple):
    """When an unfinished run was last seen. Nothing is known of a run that has ended or has no heartbeats."""

    last_seen: Optional[datetime] = None
    """When a process last worked on it, in UTC by the database's clock."""
    silence: Optional[float] = None
    """How many seconds ago that was."""
    is_stale: Optional[bool] = None
    """Whether it has missed three heartbeats, or was interrupted."""
    is_interrupted: bool = False
    """Whether the process that ran the pipeline exited before the run ended."""


def beats_of(rows: Iterable[Row]) -> List[Beat]:
    """Return the heartbeats among rows of a run, oldest first. What cannot be read is left out."""
    beats = (parse_beat(row) for row in rows if row[0] in fragments.HEARTBEAT)
    return [beat for beat in beats if beat]


def liveness_of(beats: Iterable[Beat], now: datetime) -> Liveness:
    """Return whether somebody works on an unfinished run.

    Args:
        beats: Its heartbeats.
        now: The time by the database's clock.
    """
    known = sorted(beats, key=lambda beat: beat.time)
    if not known:
        return Liveness()
    newest = known[-1]
    is_interrupted = newest.state == INTERRUPTED
    is_silent = all(_age(beat, now) > STALE_INTERVALS * beat.interval for beat in known)
    return Liveness(from_created_at(newest.time), _age(newest, now), is_interrupted or is_silent, is_interrupted)


def _age(beat: Beat, now: datetime) -> float:
    return max(0.0, (now - beat.time).total_seconds())
