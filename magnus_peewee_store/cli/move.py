"""The commands that move runs: export, import, copy."""

from collections import Counter
from pathlib import Path
from typing import Dict, Iterable, List, Sequence, Tuple

import click

from magnus_peewee_store import runs
from magnus_peewee_store.cli.options import complete_run_id, filter_options, on_database, open_until_command_ends
from magnus_peewee_store.cli.terminal import count_of_runs, progress_bar, say
from magnus_peewee_store.runs.read import find_runs, newest_ids
from magnus_peewee_store.runs.search import Condition
from magnus_peewee_store.runs.transfer import FAILED, INCOMPLETE, SKIPPED, UPDATED, WRITTEN, Outcome, find_differing
from magnus_peewee_store.store import DBStore


@click.command("export")
@click.argument("run_ids", shell_complete=complete_run_id, nargs=-1, metavar="[RUN_ID]...")
@click.option("--all", "is_all", is_flag=True, help="Export all runs.")
@filter_options
@click.option("-o", "--output", metavar="DIR", required=True, help="The folder to write to.")
@on_database()
def export_runs(store: DBStore, run_ids: Tuple[str, ...], is_all: bool, where: List[Condition], output: str) -> None:
    """Write runs as JSON files that magnus' file-system store reads. A re-run's original runs are written, too.

    \b
    Example:
      magnus db export calm-hoover -o exported
    """
    if bool(run_ids) == (is_all or bool(where)):
        raise click.UsageError("Give either the ids of runs, or conditions, or --all.")
    chosen = _choose(store, run_ids, where)
    if not _report_outcomes(runs.export_runs(store, chosen, Path(output)), len(chosen), "exported")[1]:
        click.get_current_context().exit(1)


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
    if not _report_outcomes(runs.import_runs(store, found), len(found), "imported")[1]:
        click.get_current_context().exit(1)


@click.command("copy")
@click.argument("run_ids", shell_complete=complete_run_id, nargs=-1, metavar="[RUN_ID]...")
@filter_options
@click.option("--to", required=True, metavar="URL", help="The connection string of the database to copy to.")
@click.option("--verify", is_flag=True, help="Check afterwards that the target has all rows, or newer ones.")
@click.option("--overwrite", is_flag=True, help="Replace the runs in the other database, even if they are newer there.")
@on_database()
def copy_runs(
    store: DBStore, run_ids: Tuple[str, ...], where: List[Condition], to: str, verify: bool, overwrite: bool
) -> None:
    """Copy runs into another database, or bring them up to date there.

    Without ids and conditions, all runs are copied. Repeat the command for a backup: runs that are equal are skipped.
    A re-run is copied together with the original runs whose results it reuses.
    Each run is copied atomically, so the command can be interrupted. Unfinished runs are copied as they are now, and
    reported. What is newer in the other database, or only there, stays. See also --overwrite.

    \b
    Example:
      magnus db copy --to 'postgresql://magnus:${password}@db.example.com/run_logs'
    """
    if run_ids and where:
        raise click.UsageError("Give either the ids of runs, or conditions.")
    target = DBStore(connection_string=to, retry_timeout=store.retry_timeout)
    target.set_secrets_handler(store.secrets_handler)
    open_until_command_ends(target, "--to")
    chosen = _choose(store, run_ids, where)
    copied, is_complete = _report_outcomes(runs.copy_runs(store, target, chosen, overwrite), len(chosen), "copied")
    if verify:
        is_complete = _verify(store, target, copied) and is_complete
    if not is_complete:
        click.get_current_context().exit(1)


def _verify(store: DBStore, target: DBStore, run_ids: Sequence[str]) -> bool:
    with progress_bar("runs", len(run_ids)) as advance:
        differing = []
        for run_id in find_differing(store, target, run_ids, advance):
            differing.append(run_id)
            say(f"{run_id}: the two databases differ. It may have been written meanwhile.", err=True)
    agreeing = len(run_ids) - len(differing)
    say(f"{agreeing:,} of {count_of_runs(run_ids)} agree in all rows.")
    return not differing


def _choose(store: DBStore, run_ids: Sequence[str], where: Sequence[Condition]) -> List[str]:
    """Return the whole ids of the given runs. Without any, return all runs that meet the conditions, oldest first."""
    if run_ids:
        return find_runs(store, run_ids)
    return ([run.run_id for run in runs.search(store, where)] if where else newest_ids(store))[::-1]


def _report_outcomes(outcomes: Iterable[Outcome], total: int, verb: str) -> Tuple[List[str], bool]:
    """Report problems as they happen, and numbers at the end. Return all names, and whether all runs are complete."""
    names: List[str] = []
    counts: Dict[str, int] = Counter()
    try:
        with progress_bar("runs", total) as advance:
            for outcome in outcomes:
                counts[outcome.status] += 1
                names.append(outcome.name)
                if outcome.message:
                    say(f"{outcome.name}: {outcome.message}", err=True)
                advance(1)
    finally:
        parts = [f"{counts[WRITTEN] + counts[INCOMPLETE]:,} {verb}"]
        endings = {UPDATED: "updated", SKIPPED: "existed already", FAILED: "failed"}
        parts += [f"{counts[status]:,} {ending}" for status, ending in endings.items() if counts[status]]
        if names or not total:
            say(f"{', '.join(parts)}.")
    return names, not (counts[INCOMPLETE] or counts[FAILED])
