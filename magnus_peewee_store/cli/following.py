"""Follow a run: what `show --follow` does."""

import time
from datetime import datetime, timedelta
from typing import Dict

import click
from magnus import defaults
from rich.live import Live
from rich.segment import SegmentLines

from magnus_peewee_store import runs
from magnus_peewee_store.cli import views
from magnus_peewee_store.cli.console import make_console, printable
from magnus_peewee_store.exceptions import RunNotFoundError
from magnus_peewee_store.fragments import ENDED
from magnus_peewee_store.runs.reading import Run, read_exactly
from magnus_peewee_store.store import DBStore
from magnus_peewee_store.times import format_duration

POLL_SECONDS = 0.5
WAIT_SECONDS = 60.0  # for a run that does not exist yet
GAVE_UP = 2  # the exit status


def follow(store: DBStore, run_id: str, give_up_after: timedelta) -> Run:
    """Show a run until it has ended or seems dead: on a terminal as a tree, elsewhere as a line for each change.

    Args:
        store: The store.
        run_id: The id of the run, or a beginning of it.
        give_up_after: How long a stale run may be silent.

    Returns:
        The run as it was last.
    """
    console = make_console()
    run = read_exactly(store, _wait_for_run(store, run_id))
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while not _is_over(run, give_up_after):
                # If the tree is taller than the terminal, its end is shown: there the run continues.
                lines = console.render_lines(views.run_tree(run, is_full=False), pad=False)
                live.update(SegmentLines(lines[-(console.height - 1) :], new_lines=True), refresh=True)
                time.sleep(POLL_SECONDS)
                run = read_exactly(store, run.run_log.run_id)
        console.print(views.run_tree(run, is_full=False))
    else:
        printed = _print_changes(run, {})
        while not _is_over(run, give_up_after):
            time.sleep(POLL_SECONDS)
            run = read_exactly(store, run.run_log.run_id)
            printed = _print_changes(run, printed)
    return run


def exit_with_status_of(run: Run) -> None:
    """Exit with status 1 if the run failed, or 2 if it never ended. Say why in the latter case."""
    if run.run_log.status not in ENDED:
        click.echo(printable(_explain(run)), err=True)
        click.get_current_context().exit(GAVE_UP)
    if run.run_log.status != defaults.SUCCESS:
        click.get_current_context().exit(1)


def _wait_for_run(store: DBStore, run_id: str) -> str:
    give_up_at = time.monotonic() + WAIT_SECONDS
    is_waiting = False
    while True:
        try:
            return runs.find_run(store, run_id)
        except RunNotFoundError as error:
            if error.is_ambiguous or time.monotonic() > give_up_at:
                raise
        if not is_waiting:
            click.echo(printable(f"Waiting up to {format_duration(WAIT_SECONDS)} for run '{run_id}' ..."), err=True)
            is_waiting = True
        time.sleep(POLL_SECONDS)


def _is_over(run: Run, give_up_after: timedelta) -> bool:
    """Return True if a run has ended, was interrupted, or is stale for too long."""
    silence = run.liveness.silence or 0.0
    is_dead = run.liveness.is_interrupted or (run.liveness.is_stale and silence >= give_up_after.total_seconds())
    return run.run_log.status in ENDED or bool(is_dead)


def _explain(run: Run) -> str:
    run_id = run.run_log.run_id
    what = "was interrupted" if run.liveness.is_interrupted else "is stale: it was last seen"
    return (
        f"Gave up: run '{run_id}' {what} {format_duration(run.liveness.silence)} ago. "
        f"If it is dead, end it: magnus db mark-failed {run_id}"
    )


def _print_changes(run: Run, printed: Dict[str, str]) -> Dict[str, str]:
    """Print the lines that are new, and return all lines."""
    lines = views.status_lines(run)
    for name, line in lines.items():
        if printed.get(name) != line:
            click.echo(f"{datetime.now():%H:%M:%S} {line}")
    return lines
