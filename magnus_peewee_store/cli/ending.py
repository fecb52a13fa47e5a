"""The command that ends runs that died: mark-failed."""

import sys
from typing import Tuple

import click

from magnus_peewee_store import runs
from magnus_peewee_store.cli.console import printable
from magnus_peewee_store.cli.group import on_database
from magnus_peewee_store.fragments import ENDED
from magnus_peewee_store.store import DBStore
from magnus_peewee_store.times import format_duration


@click.command("mark-failed")
@click.argument("run_ids", nargs=-1, required=True, metavar="RUN_ID...")
@click.option("--yes", is_flag=True, help="Do not ask, even if a process may still work on a run.")
@on_database()
def mark_failed(store: DBStore, run_ids: Tuple[str, ...], yes: bool) -> None:
    """End runs that died. The runs and their unfinished steps become FAIL.

    The command asks first if a process worked on the run within the last three heartbeats. Each step gets a message
    that says who marked it and when. The run gets a note.

    \b
    Example:
      magnus db mark-failed calm-hoover
    """
    has_ended = False
    for run in runs.summarize(store, list(dict.fromkeys(runs.find_run(store, run_id) for run_id in run_ids))):
        if run.status in ENDED:
            click.echo(printable(f"Run '{run.run_id}' has already ended: {run.status}."), err=True)
            has_ended = True
            continue
        if run.is_stale is False and not yes:
            warning = printable(
                f"A process worked on run '{run.run_id}' {format_duration(run.silence)} ago, so it may be alive."
            )
            if not sys.stdin.isatty():
                raise click.ClickException(f"{warning} It was not changed. To end it anyway, add --yes.")
            click.confirm(f"{warning} End it anyway?", abort=True)
        ended = runs.mark_failed(store, run.run_id)
        click.echo(printable(f"Marked run '{run.run_id}' as FAIL, with {len(ended)} unfinished steps and branches."))
    if has_ended:
        click.get_current_context().exit(1)
