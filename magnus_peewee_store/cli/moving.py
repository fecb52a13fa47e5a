"""The commands that move runs: export, import, copy."""

from pathlib import Path
from typing import Iterable, List, Sequence, Tuple

import click

from magnus_peewee_store import fragments, runs
from magnus_peewee_store.cli.console import printable, progress_bar
from magnus_peewee_store.cli.group import on_database, open_target
from magnus_peewee_store.runs.transfer import are_same
from magnus_peewee_store.store import DBStore


@click.command("export")
@click.argument("run_ids", nargs=-1, metavar="[RUN_ID]...")
@click.option("--all", "is_all", is_flag=True, help="Export all runs.")
@click.option("-o", "--output", metavar="DIR", required=True, help="The folder to write to.")
@on_database()
def export_runs(store: DBStore, run_ids: Tuple[str, ...], is_all: bool, output: str) -> None:
    """Write runs as JSON files that magnus' file-system store reads.

    \b
    Example:
      magnus db export calm-hoover -o exported
    """
    chosen = _choose(store, run_ids, is_all)
    _report_outcomes(runs.export_runs(store, chosen, Path(output)), len(chosen), "exported")


@click.command("import")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@on_database(creates=True)
def import_runs(store: DBStore, paths: Tuple[str, ...]) -> None:
    """Import runs from the folders of file-system and chunked-fs stores, or from exported files.

    Runs that the database already has are skipped.

    \b
    Example:
      magnus db import .run_log_store
    """
    found = [run_log for path in paths for run_log in runs.find_run_logs(Path(path))]
    _report_outcomes(runs.import_runs(store, found), len(found), "imported")


@click.command("copy")
@click.argument("run_ids", nargs=-1, metavar="[RUN_ID]...")
@click.option("--to", required=True, metavar="URL", help="The connection string of the database to copy to.")
@on_database()
def copy_runs(store: DBStore, run_ids: Tuple[str, ...], to: str) -> None:
    """Copy runs, by default all, into another database.

    Runs that the other database already has are skipped. Unfinished runs are copied as they are now, and reported.

    \b
    Example:
      magnus db copy --to 'postgresql://magnus:${password}@db.example.com/run_logs'
    """
    target = DBStore(connection_string=to, retry_timeout=store.retry_timeout)
    target.set_secrets_handler(store.secrets_handler)
    open_target(target, "--to")
    if are_same(store.table.database, target.table.database):
        raise click.ClickException("--to names the database that contains the runs. Name another one.")
    chosen = _choose(store, run_ids, is_all=not run_ids)
    _report_outcomes(runs.copy_runs(store, target, chosen), len(chosen), "copied")


def _choose(store: DBStore, run_ids: Sequence[str], is_all: bool) -> List[str]:
    """Return the whole ids of the runs named, or of all runs, oldest first."""
    if bool(run_ids) == is_all:
        raise click.UsageError("Give the ids of runs, or --all.")
    if not is_all:
        return list(dict.fromkeys(runs.find_run(store, run_id) for run_id in run_ids))
    return list(dict.fromkeys(run_id for run_id, _ in store.table.runs(fragments.RUN_LOG)))[::-1]


def _report_outcomes(outcomes: Iterable[runs.Outcome], total: int, verb: str) -> None:
    """Report problems as they happen, and the numbers at the end or when interrupted."""
    counts = dict.fromkeys(("done", "skipped", "failed", "problems"), 0)
    try:
        with progress_bar("runs", total) as advance:
            for outcome in outcomes:
                counts["done" if outcome.done else "failed" if outcome.problem else "skipped"] += 1
                counts["problems"] += bool(outcome.problem)
                if outcome.problem or outcome.note:
                    click.echo(printable(f"{outcome.name}: {outcome.problem or outcome.note}"), err=True)
                advance(1)
    finally:
        parts = [f"{counts['done']:,} {verb}"]
        parts += [f"{counts['skipped']:,} existed already"] if counts["skipped"] else []
        parts += [f"{counts['failed']:,} failed"] if counts["failed"] else []
        if any(counts.values()) or not total:
            click.echo(f"{', '.join(parts)}.")
    if counts["problems"]:
        click.get_current_context().exit(1)
