"""Times and durations: the clock, the times that magnus writes, and how both are shown."""

import re
from datetime import MAXYEAR, MINYEAR, datetime, timedelta, timezone
from typing import Any, Optional

TICK = timedelta(microseconds=1)  # the smallest difference between two values of created_at

# The lengths of a time as magnus and SQLite store it: without a zone, and either without or with microseconds.
ISO_LENGTHS = (19, 26)
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def next_tick(time: datetime) -> datetime:
    """Return the next time, or the same one if it is the last that Python has."""
    return time + TICK if time < datetime.max else time


def utcnow() -> datetime:
    """Return the current time in UTC, without a time zone, as the column created_at stores it."""
    return datetime.now(timezone.utc).replace(tzinfo=None)


def local_utc_offset() -> int:
    """Return the offset of this machine's local time from UTC, in seconds, as it is now."""
    offset = datetime.now().astimezone().utcoffset()
    return int(offset.total_seconds()) if offset else 0


def from_created_at(created_at: Any) -> Optional[datetime]:
    """Return a value of the column created_at as a time in UTC; None if it is not a time."""
    is_time = isinstance(created_at, datetime) and _is_in_range(created_at)
    return created_at.replace(tzinfo=timezone.utc) if is_time else None


def _is_in_range(time: datetime) -> bool:
    """Return False for the first and the last year: other zones, and differences, would leave Python's range."""
    return MINYEAR < time.year < MAXYEAR


def to_created_at(time: datetime) -> datetime:
    """Return a time as the column created_at stores it. A time without a zone is local time."""
    return time.astimezone(timezone.utc).replace(tzinfo=None)


def parse_time(text: str, utc_offset: Optional[int] = None) -> Optional[datetime]:
    """Parse a time in ISO 8601, and return it with a zone; None if the text is not a time.

    Without a zone it is local time, as magnus writes it: of a machine whose offset from UTC is `utc_offset` seconds, or
    else of this machine. A time with a zone becomes this machine's local time.
    """
    try:
        # Python before 3.11 does not parse the Z.
        time = datetime.fromisoformat(f"{text[:-1]}+00:00" if text[-1:] in ("Z", "z") else text)
    except ValueError:
        return None
    if not _is_in_range(time):
        return None
    if utc_offset is not None and time.tzinfo is None:
        return time.replace(tzinfo=timezone(timedelta(seconds=utc_offset)))
    return time.astimezone()


def parse_age(text: str) -> Optional[timedelta]:
    """Parse an age: `90s`, `15m`, `12h`, `2d` or `1w`. None if it is not an age, or reaches back before the year 1."""
    parts = re.fullmatch(r"(\d+)([smhdw])", text.strip())
    if not parts:
        return None
    try:
        age = timedelta(**{UNITS[parts[2]]: int(parts[1])})
        datetime.now(timezone.utc) - age  # This overflows before the year 1.
    except OverflowError:
        return None
    return age


def format_time(time: Optional[datetime], short: bool = False) -> str:
    """Format a time as local time. The short form has 12 characters, as in `ls -l`. None gives an empty string."""
    if time is None:
        return ""
    local = time.astimezone()
    if not short:
        return f"{local:%Y-%m-%d %H:%M:%S}"
    is_recent = abs(datetime.now().astimezone() - local) < timedelta(days=180)
    return f"{local:%b %d %H:%M}" if is_recent else f"{local:%b %d  %Y}"


def format_utc_offset(utc_offset: Optional[int]) -> str:
    """Format an offset in seconds: `UTC+02:00`. None gives `zone unknown`."""
    if utc_offset is None:
        return "zone unknown"
    return str(timezone(timedelta(seconds=utc_offset))) if utc_offset else "UTC"


def format_duration(seconds: Optional[float]) -> str:
    """Format a duration in at most two units: `4.2ms`, `374ms`, `9.5s`, `2m 05s`, `3h`, `4d 02h`.

    None gives an empty string.
    """
    if seconds is None:
        return ""
    if not seconds:
        return "0s"
    if round(seconds * 1000) < 1000:
        return f"{round(seconds * 1000, 1 if seconds < 0.01 else None):g}ms"
    if round(seconds, 1) < 60:
        return f"{round(seconds, 1):g}s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    units = [(days, "d"), (hour, "h"), (minute, "m"), (second, "s")]
    first = next(index for index, (count, _) in enumerate(units) if count)
    (large, large_unit), *rest = units[first : first + 2]
    small = "".join(f" {count:02}{unit}" for count, unit in rest if count)
    return f"{large}{large_unit}{small}"
