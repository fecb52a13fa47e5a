"""The command that writes a report of many runs."""

from pathlib import Path
from typing import List

import click

from magnus_peewee_store import runs
from magnus_peewee_store.cli.console import progress_bar
from magnus_peewee_store.cli.filters import filter_options
from magnus_peewee_store.cli.group import on_database
from magnus_peewee_store.cli.views import echo_all_unreadable
from magnus_peewee_store.runs.conditions import Condition
from magnus_peewee_store.store import DBStore


@click.command()
@filter_options
@click.option("-o", "--output", metavar="DIR", required=True, help="The folder to write to.")
@on_database()
def report(store: DBStore, where: List[Condition], output: str) -> None:
    """Write a static site of runs: a table, plots of metrics, and a page with the timeline of each run.

    It replaces an earlier report in DIR. It needs plotly and itables.

    \b
    Example:
      magnus db report -o report --since 30d
    """
    # Imported here because every magnus command loads this module, and this import is slow.
    from magnus_peewee_store.report.site import write_site

    found = runs.search(store, where)
    with progress_bar("runs", len(found)) as advance:
        index = write_site(store, found, Path(output), where, advance)
    click.echo(f"Wrote {index}.")
    echo_all_unreadable(found)
