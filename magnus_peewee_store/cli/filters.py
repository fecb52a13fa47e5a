"""The options that choose runs, which several commands share."""

from typing import Any, Callable, TypeVar

import click

T = TypeVar("T")


def where_option(command: Callable[..., T]) -> Callable[..., T]:
    """Give a command the option --where."""
    option: Any = click.option(
        "--where",
        multiple=True,
        metavar="CONDITION",
        help="Only runs that meet this, such as project=github.com/team/sales or tag=nightly. Can be repeated.",
    )
    return option(command)  # type: ignore[no-any-return]
