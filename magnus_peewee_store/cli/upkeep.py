"""The commands that look after a database: create-tables, create-views, check, delete, prune."""

import sys
from dataclasses import asdict
from datetime import timedelta
from typing import Optional, Sequence, Tuple

import click

from magnus_peewee_store import runs
from magnus_peewee_store.cli import views
from magnus_peewee_store.cli.console import (
    LIST_LENGTH,
    count_of_runs,
    echo_json,
    list_of,
    make_console,
    printable,
    progress_bar,
)
from magnus_peewee_store.cli.group import json_option, on_database
from magnus_peewee_store.cli.tables import runs_table
from magnus_peewee_store.cli.types import Age, RunCommand, RunId
from magnus_peewee_store.fragments import ENDED
from magnus_peewee_store.runs.finding import find_by_place, has_run
from magnus_peewee_store.store import DBStore
from magnus_peewee_store.times import format_time


@click.command("create-tables")
@on_database(creates=True)
def create_tables(store: DBStore) -> None:
    """Create the table, or complete one that other software created. Running it again is safe.

    \b
    Example:
      magnus db create-tables -c config.yaml
    """
    created = store.table.create()
    for part in created:
        click.echo(f"Created {part}.")
    if not created:
        click.echo("Nothing is missing.")


@click.command("create-views")
@click.option("--drop", is_flag=True, help="Drop the views.")
@on_database()
def create_views(store: DBStore, drop: bool) -> None:
    """Create views for SQL clients: run_metrics and run_params. Running it again is safe.

    run_metrics has the columns run_id, step, metric, value and text; run_params has run_id, param, value and text.
    value is the number, or NULL if it is none; text is the value as text.

    \b
    Example:
      magnus db create-views
    """
    names = runs.drop_views(store) if drop else runs.create_views(store)
    for name in names:
        click.echo(f"{'Dropped' if drop else 'Created'} the view {name}.")
    if not names:
        click.echo("There are no views to drop.")


@click.command()
@on_database()
@json_option
def check(store: DBStore, is_json: bool) -> None:
    """Check the connection, the table and every row. The exit status is 0 if all is well.

    \b
    Example:
      magnus db check
    """
    with progress_bar("rows", None) as advance:
        report = runs.check(store, advance)
    if is_json:
        unreadable = [row._asdict() for row in report.unreadable]
        echo_json({**asdict(report), "unreadable": unreadable, "is_healthy": report.is_healthy})
    else:
        make_console().print(views.check_table(report))
        click.echo(_advice(report))
    if not report.is_healthy:
        click.get_current_context().exit(1)


@click.command(cls=RunCommand)
@click.argument("run_ids", nargs=-1, required=True, type=RunId(), metavar="RUN_ID...")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only show what would be deleted.")
@on_database()
def delete(store: DBStore, run_ids: Tuple[str, ...], yes: bool, dry_run: bool) -> None:
    """Delete runs, after showing them and asking. Give whole ids, or latest or -1.

    \b
    Example:
      magnus db delete calm-hoover
    """
    run_ids = tuple(find_by_place(store, run_id) or run_id for run_id in run_ids)
    # A shortened id could name another run once its own run is deleted.
    existing = [run_id for run_id in dict.fromkeys(run_ids) if has_run(store, run_id)]
    unknown = [run_id for run_id in run_ids if run_id not in existing]
    for run_id in unknown:
        click.echo(printable(f"There is no run '{run_id}'. Give the whole id to delete a run."), err=True)
    if existing or not unknown:
        _delete(store, existing, yes, dry_run)
    if unknown:
        click.get_current_context().exit(1)


@click.command()
@click.option("--older-than", type=Age(), metavar="AGE", help="Only runs older than this, such as 90d (or s, m, h, w).")
@click.option("--keep", type=click.IntRange(min=0), metavar="COUNT", help="Always keep the newest COUNT runs.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only show what would be deleted.")
@on_database()
def prune(store: DBStore, older_than: Optional[timedelta], keep: Optional[int], yes: bool, dry_run: bool) -> None:
    """Delete old runs, after showing them and asking. With both options, a run must match both.

    An unfinished run is kept while it has a row younger than --older-than, or than a day.

    \b
    Example:
      magnus db prune --older-than 90d --keep 100
    """
    if older_than is None and keep is None:
        raise click.UsageError("Give --older-than AGE, --keep COUNT, or both.")
    with progress_bar("runs", None) as advance:
        found = runs.prunable(store, older_than, keep, advance)
    if found.running:
        click.echo(f"{count_of_runs(found.running)} kept, not ended: {list_of(found.running)}", err=True)
    _delete(store, found.run_ids, yes, dry_run)


def _advice(report: runs.CheckReport) -> str:
    if report.is_healthy:
        return "All is well."
    if report.duplicates:
        return (
            "Of rows with the same run_id, attribute_type and attribute_key, keep the newest by created_at and delete "
            "the others. Then run magnus db create-tables."
        )
    if report.missing:
        return "Run magnus db create-tables."
    if report.widen_pk:
        return f"Half of the numbers of the column pk are used. While no pipeline runs, run: {report.widen_pk}"
    return "The other rows of these runs can still be read. To delete a run, use magnus db delete RUN_ID."


def _delete(store: DBStore, run_ids: Sequence[str], yes: bool, dry_run: bool) -> None:
    if not run_ids:
        click.echo("There is nothing to delete.")
        return
    console = make_console()
    summaries = runs.summarize(store, run_ids[:LIST_LENGTH])
    console.print(runs_table(summaries, console.width)[0])
    if len(run_ids) > LIST_LENGTH:
        [newest] = runs.summarize(store, run_ids[-1:])
        first, last = format_time(summaries[0].started), format_time(newest.started)
        more = len(run_ids) - LIST_LENGTH
        click.echo(f"... and {more:,} more: {count_of_runs(run_ids)} in total, started from {first} to {last}.")
    if dry_run:
        click.echo(f"{count_of_runs(run_ids)} would be deleted.")
        return
    if not yes:
        if not sys.stdin.isatty():
            raise click.ClickException("Nothing was deleted: there is no terminal for the confirmation. Add --yes.")
        unfinished = [run.run_id for run in summaries if run.status not in ENDED]
        if unfinished:
            click.echo(f"Not ended, may still be running: {list_of(unfinished)}")
        click.confirm(f"Delete {count_of_runs(run_ids)}?", abort=True)
    deleted = 0
    try:
        with progress_bar("runs", len(run_ids)) as advance:
            for _ in runs.delete_runs(store, run_ids):
                deleted += 1
                advance(1)
    finally:
        click.echo(f"{deleted:,} of {count_of_runs(run_ids)} deleted.")
