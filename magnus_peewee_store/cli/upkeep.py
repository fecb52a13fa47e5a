"""The commands that look after a database: create-tables, create-views, check, delete, prune."""

import sys
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import List, Mapping, Optional, Sequence, Tuple

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
from magnus_peewee_store.cli.filters import filter_options
from magnus_peewee_store.cli.group import json_option, on_database
from magnus_peewee_store.cli.tables import runs_table
from magnus_peewee_store.cli.types import Age, RunCommand, RunId
from magnus_peewee_store.fragments import ENDED
from magnus_peewee_store.runs.catalogs import delete_folder, find_catalogs, run_folders
from magnus_peewee_store.runs.conditions import Condition
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

    run_metrics has the columns run_id, step, metric, value and text. run_params has run_id, param, value and text.
    value is the number, or NULL if the value is not a number. text is the value as text.

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
    """Delete runs. The command shows them and asks first. Give whole ids, or latest or -1.

    \b
    Example:
      magnus db delete calm-hoover
    """
    run_ids = tuple(find_by_place(store, run_id) or run_id for run_id in run_ids)
    # Only whole ids are accepted: after a run is deleted, its shortened id may name another run.
    existing = [run_id for run_id in dict.fromkeys(run_ids) if has_run(store, run_id)]
    unknown = [run_id for run_id in run_ids if run_id not in existing]
    for run_id in unknown:
        click.echo(printable(f"There is no run '{run_id}'. Give the whole id to delete a run."), err=True)
    if existing or not unknown:
        _delete(store, existing, {}, yes, dry_run)
    if unknown:
        click.get_current_context().exit(1)


@click.command()
@click.option("--older-than", type=Age(), metavar="AGE", help="Only runs older than this, such as 90d (or s, m, h, w).")
@click.option("--keep", type=click.IntRange(min=0), metavar="COUNT", help="Always keep the newest COUNT runs.")
@click.option(
    "--keep-tag", "keep_tags", multiple=True, metavar="NAME", help="Keep runs with this tag. Can be repeated."
)
@filter_options
@click.option("--catalog", metavar="DIR", help="Also delete the runs' folders in this file-system catalog.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only show what would be deleted.")
@on_database()
def prune(
    store: DBStore,
    older_than: Optional[timedelta],
    keep: Optional[int],
    keep_tags: Tuple[str, ...],
    where: List[Condition],
    catalog: Optional[str],
    yes: bool,
    dry_run: bool,
) -> None:
    """Delete old runs. The command shows them and asks first. With several options, a run must match all.

    An unfinished run is kept while it has heartbeats. It is also kept while one of its rows is younger than
    --older-than; if that is less than a day, a day counts. With --where, --keep counts only the runs that match.

    \b
    Example:
      magnus db prune --older-than 90d --keep 100 --where project=github.com/team/sales --keep-tag released
    """
    if older_than is None and keep is None:
        raise click.UsageError("Give --older-than AGE, --keep COUNT, or both.")
    if catalog and not Path(catalog).is_dir():
        raise click.UsageError(f"There is no folder '{catalog}'.")
    with progress_bar("runs", None) as advance:
        found = runs.prunable(store, older_than, keep, advance, where, keep_tags)
    if found.running:
        kept = count_of_runs(found.running)
        click.echo(f"{kept} kept, because they may still be running: {list_of(found.running)}", err=True)
    folders = run_folders(Path(catalog), found.run_ids) if catalog else {}
    if folders:
        click.echo(f"--catalog also deletes the folders of {count_of_runs(list(folders))} in {catalog}.")
    else:
        _report_kept_data(find_catalogs(store, found.run_ids))
    _delete(store, found.run_ids, folders, yes, dry_run)


def _report_kept_data(catalogs: Mapping[str, Sequence[str]]) -> None:
    """Print which data of runs stays in file-system catalogs."""
    for location, run_ids in catalogs.items():
        kept = list(run_folders(Path(location), run_ids))
        if kept:
            click.echo(
                printable(
                    f"The data of {count_of_runs(kept)} stays in the catalog {location}. "
                    f"To delete it, too, add --catalog {location}"
                )
            )


def _advice(report: runs.CheckReport) -> str:
    if report.is_healthy:
        return "All is well." + (" To end dead runs, use magnus db mark-failed RUN_ID." if report.stale else "")
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


def _delete(
    store: DBStore,
    run_ids: Sequence[str],
    folders: Mapping[str, Path],
    yes: bool,
    dry_run: bool,
) -> None:
    """Show runs, ask, and delete the runs and their folders."""
    if not run_ids:
        click.echo("There is nothing to delete.")
        return
    summaries = _show_some(store, run_ids)
    if dry_run:
        click.echo(f"{count_of_runs(run_ids)} would be deleted.")
        return
    if not yes:
        _confirm(run_ids, summaries)
    deleted = 0
    try:
        with progress_bar("runs", len(run_ids)) as advance:
            for run_id in run_ids:
                # The folder goes first. If it cannot be deleted, the run is still there and can be pruned again.
                if run_id in folders:
                    delete_folder(folders[run_id])
                deleted += sum(1 for _ in runs.delete_runs(store, [run_id]))
                advance(1)
    finally:
        click.echo(f"{deleted:,} of {count_of_runs(run_ids)} deleted.")


def _show_some(store: DBStore, run_ids: Sequence[str]) -> List[runs.RunSummary]:
    """Print the first runs as a table and the number of the others. Return the summaries of the first runs."""
    console = make_console()
    summaries = runs.summarize(store, run_ids[:LIST_LENGTH])
    console.print(runs_table(summaries, console.width)[0])
    if len(run_ids) > LIST_LENGTH:
        [newest] = runs.summarize(store, run_ids[-1:])
        first, last = format_time(summaries[0].started), format_time(newest.started)
        more = len(run_ids) - LIST_LENGTH
        click.echo(f"... and {more:,} more: {count_of_runs(run_ids)} in total, started from {first} to {last}.")
    return summaries


def _confirm(run_ids: Sequence[str], summaries: Sequence[runs.RunSummary]) -> None:
    """Ask whether to delete runs, and end the command if the answer is no."""
    if not sys.stdin.isatty():
        raise click.ClickException("Nothing was deleted: there is no terminal for the confirmation. Add --yes.")
    unfinished = [run.run_id for run in summaries if run.status not in ENDED]
    if unfinished:
        click.echo(f"These runs have not ended and may still be running: {list_of(unfinished)}")
    click.confirm(f"Delete {count_of_runs(run_ids)}?", abort=True)
