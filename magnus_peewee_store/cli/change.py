"""The commands that change runs: tag, untag, note, mark-failed, delete, prune."""

import shutil
import sys
from datetime import timedelta
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import click

from magnus_peewee_store import runs
from magnus_peewee_store.cli import CATALOG
from magnus_peewee_store.cli.lists import runs_table
from magnus_peewee_store.cli.options import age, complete_run_id, filter_options, name_database, on_database
from magnus_peewee_store.cli.terminal import (
    LIST_LENGTH,
    count_of_runs,
    list_of,
    make_console,
    printable,
    progress_bar,
    say,
    shell_words,
)
from magnus_peewee_store.exceptions import InvalidValueError
from magnus_peewee_store.fragments import ENDED
from magnus_peewee_store.heartbeat import is_seen_again
from magnus_peewee_store.runs.read import find_by_place, find_runs, has_run
from magnus_peewee_store.runs.search import Condition
from magnus_peewee_store.runs.upkeep import check_reuse, decide, deletable_folders, delete_unless_kept
from magnus_peewee_store.store import DBStore
from magnus_peewee_store.times import format_duration, format_time


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="RUN_ID NAME...")
@click.option("--run", "more", metavar="RUN_ID", multiple=True, help="Tag this run, too. Can be repeated.")
@filter_options
@on_database()
def tag(store: DBStore, words: Tuple[str, ...], more: Tuple[str, ...], where: List[Condition]) -> None:
    """Add tags to runs. magnus db runs --tag finds runs by tag, and prune --keep-tag keeps them.

    With --where, --status, --tag or --since, it tags the runs that match. Then leave out RUN_ID: each word is a tag.

    \b
    Example:
      magnus db tag calm-hoover released --run keen-curie
      magnus db tag good --where 'rmse<0.5'
    """
    if where and more:
        raise click.UsageError("Give either --run or conditions.")
    names = words if where else words[1:]
    if not names:
        raise click.UsageError("Give the id of a run, and the tags to add.")
    run_ids = [run.run_id for run in runs.search(store, where)] if where else find_runs(store, (words[0], *more))
    for run_id in run_ids:
        runs.tag_run(store, run_id, *names)
    say(f"Tagged {list_of(run_ids)} with {list_of(names)}." if run_ids else "No runs match.", err=not run_ids)


@click.command()
@click.argument("run_id", shell_complete=complete_run_id)
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
        raise InvalidValueError(message)
    runs.untag_run(store, run.run_log.run_id, *names)
    say(f"Removed {list_of(names)} from {run.run_log.run_id}.")


@click.command()
@click.argument("run_id", shell_complete=complete_run_id)
@click.argument("text", required=False)
@click.option("--edit", type=int, metavar="N", help="Replace the text of note N. magnus db show numbers the notes.")
@click.option("--delete", type=int, metavar="N", help="Delete note N.")
@on_database()
def note(store: DBStore, run_id: str, text: Optional[str], edit: Optional[int], delete: Optional[int]) -> None:
    """Add a note to a run, or change one. magnus db show shows and numbers them.

    \b
    Example:
      magnus db note calm-hoover "ran with last year's prices"
      magnus db note calm-hoover --edit 1 "ran with the prices of 2023"
      magnus db note calm-hoover --delete 1
    """
    if (text is None) == (delete is None) or (delete is not None and edit is not None):
        raise click.UsageError("Give TEXT, or --edit N TEXT, or --delete N.")
    found = runs.find_run(store, run_id)
    if delete is not None:
        say(f"Deleted note {delete} of {found}: {runs.delete_note(store, found, delete)}")
    elif edit is not None:
        runs.edit_note(store, found, edit, str(text))
        say(f"Changed note {edit} of {found}.")
    else:
        say(f"Added note {runs.add_note(store, found, str(text))} to {found}.")


@click.command("mark-failed")
@click.argument("run_ids", shell_complete=complete_run_id, nargs=-1, required=True, metavar="RUN_ID...")
@click.option("--yes", is_flag=True, help="Neither wait nor ask, even if a process may still work on a run.")
@on_database()
def mark_failed(store: DBStore, run_ids: Tuple[str, ...], yes: bool) -> None:
    """End runs that died. The runs and their unfinished steps become FAIL.

    The command first waits for a heartbeat of the run, at most for a minute. If a process may work on the run, the
    command asks before it goes on. Each step gets a message that says who marked it and when. The run gets a note.

    \b
    Example:
      magnus db mark-failed calm-hoover
    """
    name_database(store)
    has_ended = False
    for run in runs.summarize(store, find_runs(store, run_ids)):
        if run.status in ENDED:
            say(f"Run '{run.run_id}' has already ended: {run.status}.", err=True)
            has_ended = True
            continue
        if not yes and (run.is_stale is False or (run.is_stale and _is_alive(store, run.run_id))):
            seen = f"{format_duration(run.silence)} ago" if run.is_stale is False else "just now"
            warning = printable(f"A process worked on run '{run.run_id}' {seen}, so it may be alive.")
            if not sys.stdin.isatty():
                raise click.ClickException(f"{warning} It was not changed. To end it anyway, add --yes.")
            click.confirm(f"{warning} End it anyway?", abort=True)
        ended = runs.mark_failed(store, run.run_id)
        unfinished = f", with its unfinished steps and branches: {list_of(ended)}" if ended else ""
        say(f"Marked run '{run.run_id}' as FAIL{unfinished}.")
    if has_ended:
        click.get_current_context().exit(1)


def _is_alive(store: DBStore, run_id: str) -> bool:
    say(f"Waiting for a heartbeat of run '{run_id}', at most for a minute ...", err=True)
    return is_seen_again(store.table, run_id)


@click.command()
@click.argument("run_ids", shell_complete=complete_run_id, nargs=-1, required=True, metavar="RUN_ID...")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Also delete runs that other runs take results from.")
@click.option("--dry-run", is_flag=True, help="Only show what would be deleted.")
@on_database()
def delete(store: DBStore, run_ids: Tuple[str, ...], yes: bool, force: bool, dry_run: bool) -> None:
    """Delete runs. The command shows them and asks first. Give whole ids, or latest or latest~1.

    A re-run (magnus execute --use-cached) takes the results of its reused steps from the original run. So an original
    run is deleted only together with its re-runs, or with --force.

    \b
    Example:
      magnus db delete calm-hoover
    """
    run_ids = tuple(find_by_place(store, run_id) or run_id for run_id in run_ids)
    # Only whole ids are accepted: after a run is deleted, its shortened id may name another run.
    existing = [run_id for run_id in dict.fromkeys(run_ids) if has_run(store, run_id)]
    unknown = [run_id for run_id in run_ids if run_id not in existing]
    for run_id in unknown:
        say(f"There is no run '{run_id}'. Give the whole id to delete a run.", err=True)
    if existing and not force:
        check_reuse(store, existing)
    if existing:
        _delete(store, existing, yes, dry_run, should_force=force)
    if unknown:
        click.get_current_context().exit(1)


@click.command()
@click.option("--older-than", type=age, metavar="AGE", help="Only runs older than this, such as 90d (or s, m, h, w).")
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
    --older-than; if that is less than a day, a day counts. A run is kept while a re-run that is kept reuses its steps.
    Each run is looked at again immediately before it is deleted. With --where, --keep counts only the runs that match.

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
        say(f"{kept} kept, because they may still be running: {list_of(found.running)}", err=True)
    for run_id, reruns in found.reused.items():
        say(f"{run_id} is kept, because re-runs reuse its steps: {list_of(reruns)}", err=True)
    place = catalog or click.get_current_context().meta[CATALOG]
    folders, stays = deletable_folders(store, Path(place), found.run_ids)
    if catalog:
        for reason in stays:
            say(reason, err=True)
        if folders:
            say(f"--catalog also deletes the folders of {count_of_runs(list(folders))} in {catalog}.")
    elif folders:
        advice = shell_words("--catalog", place)
        say(f"The data of {count_of_runs(list(folders))} stays in the catalog. To delete it, too, add {advice}")
        folders = {}

    def may_delete(run_id: str) -> bool:
        is_wanted = bool(decide(store, [run_id], older_than, where, keep_tags).run_ids)
        # The folder goes first. If it cannot be deleted, the run is still there and can be pruned again.
        if is_wanted and run_id in folders:
            shutil.rmtree(folders[run_id])
        return is_wanted

    _delete(store, found.run_ids, yes, dry_run, may_delete)


def _delete(
    store: DBStore,
    run_ids: Sequence[str],
    yes: bool,
    dry_run: bool,
    may_delete: Callable[[str], bool] = lambda run_id: True,
    should_force: bool = False,
) -> None:
    """Show runs, ask, and delete the runs. The arguments are those of `delete_unless_kept`."""
    if not run_ids:
        say("There is nothing to delete.")
        return
    name_database(store)
    summaries = _show_some(store, run_ids)
    if dry_run:
        say(f"{count_of_runs(run_ids)} would be deleted.")
        return
    if not yes:
        _confirm(run_ids, summaries)
    deleted: Dict[str, bool] = {}
    try:
        with progress_bar("runs", len(run_ids)) as advance:
            for run_id, is_deleted in delete_unless_kept(store, run_ids, may_delete, should_force):
                deleted[run_id] = is_deleted
                advance(1)
    finally:
        kept = [run_id for run_id, is_deleted in deleted.items() if not is_deleted]
        if kept:
            say(f"{count_of_runs(kept)} kept, because of changes in the meantime: {list_of(kept)}", err=True)
        say(f"{len(deleted) - len(kept):,} of {count_of_runs(run_ids)} deleted.")


def _show_some(store: DBStore, run_ids: Sequence[str]) -> List[runs.RunSummary]:
    """Print the first runs as a table and the number of the others. Return the summaries of the first runs."""
    console = make_console()
    summaries = runs.summarize(store, run_ids[:LIST_LENGTH])
    console.print(runs_table(summaries, console.width)[0])
    if len(run_ids) > LIST_LENGTH:
        [newest] = runs.summarize(store, run_ids[-1:])
        first, last = format_time(summaries[0].started), format_time(newest.started)
        more = len(run_ids) - LIST_LENGTH
        say(f"... and {more:,} more: {count_of_runs(run_ids)} in total, started from {first} to {last}.")
    return summaries


def _confirm(run_ids: Sequence[str], summaries: Sequence[runs.RunSummary]) -> None:
    """Ask whether to delete runs, and end the command if the answer is no."""
    if not sys.stdin.isatty():
        raise click.ClickException("Nothing was deleted: there is no terminal for the confirmation. Add --yes.")
    unfinished = [run.run_id for run in summaries if run.status not in ENDED]
    if unfinished:
        say(f"These runs have not ended and may still be running: {list_of(unfinished)}")
    click.confirm(f"Delete {count_of_runs(run_ids)}?", abort=True)
