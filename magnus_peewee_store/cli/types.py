"""The parameter types of the commands."""

import re
from datetime import datetime, timedelta, timezone
from typing import Any, List, Optional

import click

from magnus_peewee_store.times import parse_age, parse_time


class Age(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """An age: `90s`, `15m`, `12h`, `2d` or `1w`."""

    name = "age"

    def convert(self, value: Any, param: Optional[click.Parameter], ctx: Optional[click.Context]) -> timedelta:
        """Return the age as a timedelta."""
        age = parse_age(value)
        if age is not None:
            return age
        return self.fail(f"'{value}' is not an age. Use 90s, 15m, 12h, 2d or 1w.", param, ctx)


class Time(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A time: an age, or a date and time in ISO 8601. Without a time zone it is local time."""

    name = "time"

    def convert(self, value: Any, param: Optional[click.Parameter], ctx: Optional[click.Context]) -> datetime:
        """Return the time with its zone."""
        time = parse_time(value)
        if time:
            return time
        try:
            return datetime.now(timezone.utc) - Age().convert(value, param, ctx)
        except click.BadParameter:
            return self.fail(f"'{value}' is not a time. Use 2d (or s, m, h, w) or 2024-01-31T09:00.", param, ctx)


_ESCAPE = "\0"  # No argument of a process can contain this character.


class RunCommand(click.Command):
    """A command that accepts `-1` as an argument of the type `RunId`. click alone would take it for an option."""

    def parse_args(self, ctx: click.Context, args: List[str]) -> List[str]:
        """Parse the arguments, after escaping those like `-1`."""
        return super().parse_args(ctx, [re.sub(r"^(-[1-9]\d*)$", rf"{_ESCAPE}\1", each) for each in args])


class RunId(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """What names a run: its id or the beginning of it, `latest`, `latest:FAIL`, or `-1`."""

    name = "run"

    def convert(self, value: Any, param: Optional[click.Parameter], ctx: Optional[click.Context]) -> str:
        """Return the text without the escape."""
        return str(value).lstrip(_ESCAPE)
