"""The commands that annotate runs: tag, untag, note."""

from typing import Tuple

import click

from magnus_peewee_store import runs
from magnus_peewee_store.cli.console import printable
from magnus_peewee_store.cli.group import on_database
from magnus_peewee_store.store import DBStore


@click.command()
@click.argument("run_id")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@on_database()
def tag(store: DBStore, run_id: str, names: Tuple[str, ...]) -> None:
    """Add tags to a run. magnus db runs --tag finds runs by tag, and prune --keep-tag keeps them.

    \b
    Example:
      magnus db tag calm-hoover released
    """
    runs.tag_run(store, runs.find_run(store, run_id), *names)


@click.command()
@click.argument("run_id")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@on_database()
def untag(store: DBStore, run_id: str, names: Tuple[str, ...]) -> None:
    """Remove tags that magnus db tag added.

    \b
    Example:
      magnus db untag calm-hoover released
    """
    run = runs.read_run(store, run_id)
    unknown = [name for name in names if name not in run.tags]
    if unknown:
        message = f"Run '{run.run_log.run_id}' has no tag '{unknown[0]}'."
        if run.run_log.tag in unknown:
            message += " That tag was given to magnus execute and stays."
        raise click.ClickException(printable(message))
    runs.untag_run(store, run.run_log.run_id, *names)


@click.command()
@click.argument("run_id")
@click.argument("text")
@on_database()
def note(store: DBStore, run_id: str, text: str) -> None:
    """Add a note to a run. magnus db show shows it.

    \b
    Example:
      magnus db note calm-hoover "ran with last year's prices"
    """
    runs.add_note(store, runs.find_run(store, run_id), text)
