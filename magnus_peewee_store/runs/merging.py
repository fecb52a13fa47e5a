"""Decide which side of a run is newer, and merge its rows. Pure: no database."""

import json
from datetime import datetime
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from magnus import defaults

from magnus_peewee_store import fragments
from magnus_peewee_store.db.whole_runs import StoredRow
from magnus_peewee_store.heartbeat import parse_beat


class RunKey(NamedTuple):
    """How far a run has come. Compared as a tuple: no clock decides before the work that was done."""

    has_ended_by_itself: bool
    has_succeeded: bool
    steps_succeeded: int
    steps_ended: int
    last_heartbeat: datetime
    last_row: datetime
    is_marked_failed: bool


class Merge(NamedTuple):
    """How to change the rows of the target."""

    write: List[StoredRow]
    delete: List[StoredRow]
    conflicts: List[StoredRow]
    """The rows of the source that differ, although neither side is newer."""
    is_another_run: bool = False


def run_key(rows: Sequence[StoredRow]) -> RunKey:
    """Return how far a run has come, given its rows."""
    statuses = []
    status, is_marked = "", False
    for row in rows:
        log = _parse_object(row.attribute_value)
        if row.attribute_type in fragments.RUN_LOG:
            status, is_marked = str(log.get("status")), bool(log.get(fragments.MARKED_FAILED))
        elif row.attribute_type in fragments.STEP and not log.get(fragments.MARKED_FAILED):
            statuses.append(log.get("status"))
    created = [row.created_at for row in rows if row.attribute_type in fragments.TYPES]
    beats = [_changed(row) for row in rows if row.attribute_type in fragments.HEARTBEAT]
    succeeded = statuses.count(defaults.SUCCESS)
    return RunKey(
        status in fragments.ENDED and not is_marked,
        status == defaults.SUCCESS,
        succeeded,
        succeeded + statuses.count(defaults.FAIL),
        max(beats, default=datetime.min),
        max((each for each in created if isinstance(each, datetime)), default=datetime.min),
        is_marked,
    )


def merge(source: Sequence[StoredRow], target: Sequence[StoredRow]) -> Merge:
    """Return what the target needs to have all that the source has, or something newer.

    Rows that differ are taken from the newer side. Rows that only one side has stay or are added. Tags, notes and
    heartbeats merge one by one: the later wins.
    """
    wanted, present = _by_name(source), _by_name(target)
    result = Merge([], [], [], bool(present) and not _is_same_run(source, target))
    differing = {
        name: row
        for name, row in wanted.items()
        if name not in present or present[name].attribute_value != row.attribute_value
    }
    if result.is_another_run or not differing:
        return result
    source_key, target_key = run_key([*wanted.values()]), run_key([*present.values()])
    # magnus may still write to a run that has not ended. A run that was marked as failed has ended.
    has_ended = target_key.has_ended_by_itself or target_key.is_marked_failed
    takes_source = source_key > target_key or (source_key == target_key and not has_ended)
    for name, row in differing.items():
        if name not in present:
            result.write.append(row)
            continue
        other = present[name]
        clean = mask(other)
        if is_same_value(row.attribute_value, clean.attribute_value):
            if clean != other:
                result.write.append(clean)
        elif row.attribute_type in fragments.EXTRA:
            if _changed(row) >= _changed(other):
                result.write.append(row)
        elif takes_source:
            result.write.append(row)
        elif source_key == target_key:
            result.conflicts.append(row)
    return result


def overwrite(source: Sequence[StoredRow], target: Sequence[StoredRow]) -> Merge:
    """Return what makes the target equal to the source."""
    if target and not _is_same_run(source, target):
        return Merge([], [], [], True)
    wanted, present = dict.fromkeys(_by_name(source).values()), set(target)
    return Merge([row for row in wanted if row not in present], [row for row in target if row not in wanted], [])


def mask(row: StoredRow) -> StoredRow:
    """Return a row without secrets."""
    return row._replace(attribute_value=fragments.scrub_row(row.attribute_type, row.attribute_value))


def is_same_value(value: Any, other: Any) -> bool:
    """Return True if two values are the same JSON, or the same text."""
    try:
        return bool(value == other) or fragments.is_same_json(value, other)
    except fragments.PARSE_ERRORS:
        return False


def _by_name(rows: Sequence[StoredRow]) -> Dict[Tuple[str, str], StoredRow]:
    """Return the rows by type and key. The newest of duplicates counts."""
    named: Dict[Tuple[str, str], StoredRow] = {}
    for row in rows:
        named.pop(row[1:3], None)  # Otherwise the newest row would be at the position of the oldest.
        named[row[1:3]] = row
    return named


def _is_same_run(rows: Sequence[StoredRow], others: Sequence[StoredRow]) -> bool:
    """Compare the created_at of the runs' own rows. Some legacy tables round it to whole seconds."""
    a, b = (
        next((row.created_at for row in each if row.attribute_type in fragments.RUN_LOG), None)
        for each in (rows, others)
    )
    if isinstance(a, datetime) and isinstance(b, datetime):
        return abs((a - b).total_seconds()) < 1
    return a == b


def _parse_object(text: str) -> Dict[str, Any]:
    """Return the JSON object that a row holds; an empty one if it holds none."""
    try:
        value = json.loads(text)
    except fragments.PARSE_ERRORS:
        return {}
    return value if isinstance(value, dict) else {}


def _changed(row: StoredRow) -> datetime:
    """Return when a tag, note or heartbeat last changed. Rows without a time are the oldest."""
    if row.attribute_type in fragments.HEARTBEAT:
        beat = parse_beat(row.fragment)
        return beat.time.replace(tzinfo=None) if beat else datetime.min
    return changed_time(_parse_object(row.attribute_value)) or datetime.min


def changed_time(value: Dict[str, Any]) -> Optional[datetime]:
    """Return the time of the last change in the value of a tag or note."""
    try:
        return datetime.fromisoformat(value["changed"]).replace(tzinfo=None)
    except (KeyError, TypeError, ValueError):
        return None
