"""The options that choose runs, for every command that works on several."""

import functools
from datetime import datetime
from typing import Any, Callable, List, Optional, Tuple, TypeVar

import click

from magnus_peewee_store.cli.types import Time
from magnus_peewee_store.runs.conditions import Condition, parse_condition

T = TypeVar("T")


def filter_options(command: Callable[..., T]) -> Callable[..., T]:
    """Decorate a command: add the options that choose runs, and pass their conditions as `where`."""

    @click.option(
        "--where",
        "texts",
        metavar="CONDITION",
        multiple=True,
        help="Only runs that meet this condition, such as 'rmse<0.5': a name, then = != < <= > >= or ~ (contains), and "
        "a value. The name is that of a field (status, tag, pipeline, project, user, host, started, duration, run_id, "
        "failed_step), a parameter or a metric. Can be repeated.",
    )
    @click.option("--status", help="Only runs with this status, such as FAIL.")
    @click.option("--tag", help="Only runs with this tag.")
    @click.option(
        "--since",
        type=Time(),
        help="Only runs that started since this time: 2024-01-31T09:00, or 2d for two days ago (or s, m, h, w).",
    )
    @functools.wraps(command)
    def wrapped(
        *arguments: Any,
        texts: Tuple[str, ...],
        status: Optional[str],
        tag: Optional[str],
        since: Optional[datetime],
        **options: Any,
    ) -> T:
        where: List[Condition] = [parse_condition(text) for text in texts]
        if status:
            where.append(Condition("status", "=", status))
        if tag:
            where.append(Condition("tag", "=", tag))
        if since:
            where.append(Condition("started", ">=", since.isoformat()))
        return command(*arguments, where=where, **options)

    return wrapped
