"""Tell from the heartbeats of a run whether a process still works on it."""

from datetime import datetime
from typing import Iterable, List, NamedTuple, Optional

from magnus_peewee_store import fragments
from magnus_peewee_store.db.rows import Row
from magnus_peewee_store.heartbeat import INTERRUPTED, Beat, parse_beat
from magnus_peewee_store.times import from_created_at

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


def beats_of(rows: Iterable[Row]) -> List[Beat]:
    """Return the heartbeats among rows of a run, oldest first. Rows that cannot be read are left out."""
    beats = (parse_beat(row) for row in rows if row[0] in fragments.HEARTBEAT)
    return [beat for beat in beats if beat]


def liveness_of(beats: Iterable[Beat], now: datetime) -> Liveness:
    """Return when an unfinished run was last seen, given its heartbeats and the time by the database's clock."""
    known = sorted(beats, key=lambda beat: beat.time)
    if not known:
        return Liveness()
    newest = known[-1]
    is_interrupted = newest.state == INTERRUPTED
    is_silent = all(_age(beat, now) > STALE_INTERVALS * beat.interval for beat in known)
    return Liveness(from_created_at(newest.time), _age(newest, now), is_interrupted or is_silent, is_interrupted)


def _age(beat: Beat, now: datetime) -> float:
    return max(0.0, (now - beat.time).total_seconds())
