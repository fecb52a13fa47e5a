"""Follow a run: what `show --follow` does."""

import time
from datetime import datetime, timedelta
from typing import Dict, Iterable, Iterator

import click
from magnus import defaults
from rich.console import Console
from rich.live import Live
from rich.segment import SegmentLines

from magnus_peewee_store import runs
from magnus_peewee_store.cli import trees
from magnus_peewee_store.cli.terminal import make_console, say, shell_words
from magnus_peewee_store.fragments import ENDED
from magnus_peewee_store.heartbeat import is_seen_again
from magnus_peewee_store.runs.read import Run, read_exactly
from magnus_peewee_store.store import DBStore, RunNotFoundError
from magnus_peewee_store.times import format_duration

POLL_SECONDS = 0.5
WAIT_SECONDS = 60.0  # for a run that does not exist yet
CLOCK_JUMP = 5.0  # seconds by which a clock must jump to show that the machine was suspended
EXIT_GAVE_UP = 2  # the exit status if the run never ended


def follow_run(store: DBStore, run_id: str, give_up_after: timedelta) -> None:
    """Show a run until it has ended or seems dead: on a terminal as a tree, elsewhere as a line for each change.

    Exit with status 1 if the run failed. If it never ended, say why, and exit with status 2.
    """
    states = _poll(store, _wait_for_run(store, run_id), give_up_after)
    console = make_console()
    can_redraw = console.is_terminal and not console.is_dumb_terminal
    run = _show_tree(states, console) if can_redraw else _print_lines(states)
    trees.echo_unreadable(run)
    if run.run_log.status not in ENDED:
        run_id = run.run_log.run_id
        what = "was interrupted" if run.liveness.is_interrupted else "is stale: it was last seen"
        say(
            f"Gave up: run '{run_id}' {what} {format_duration(run.liveness.silence)} ago. "
            f"If it is dead, end it: {shell_words('magnus', 'db', 'mark-failed', run_id)}",
            err=True,
        )
        click.get_current_context().exit(EXIT_GAVE_UP)
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
            say(f"Waiting up to {format_duration(WAIT_SECONDS)} for run '{run_id}' ...", err=True)
            is_waiting = True
        time.sleep(POLL_SECONDS)


def _is_over(run: Run, give_up_after: timedelta) -> bool:
    """Return True if a run has ended, was interrupted, or is stale for too long."""
    silence = run.liveness.silence or 0.0
    is_dead = run.liveness.is_interrupted or (run.liveness.is_stale and silence >= give_up_after.total_seconds())
    return run.run_log.status in ENDED or bool(is_dead)


def _poll(store: DBStore, run_id: str, give_up_after: timedelta) -> Iterator[Run]:
    """Yield a run again and again until it is over. The last state is yielded, too."""
    offset = clock_offset()
    while True:
        run = read_exactly(store, run_id)
        yield run
        if _is_over(run, give_up_after):
            was_suspended = abs(clock_offset() - offset) > CLOCK_JUMP
            if run.run_log.status in ENDED or not was_suspended or not is_seen_again(store.table, run_id):
                return
            offset = clock_offset()
        time.sleep(POLL_SECONDS)


def clock_offset() -> float:
    """Return the difference between this machine's clock and its monotonic clock, which stands still in suspension."""
    return time.time() - time.monotonic()


def _show_tree(states: Iterable[Run], console: Console) -> Run:
    """Draw each state of a run in place of the one before, and return the last state."""
    with Live(console=console, auto_refresh=False, transient=True) as live:
        for run in states:
            # If the tree is taller than the terminal, show its end: there the run continues.
            lines = console.render_lines(trees.run_tree(run, is_full=False), pad=False)
            live.update(SegmentLines(lines[-(console.height - 1) :], new_lines=True), refresh=True)
    console.print(trees.run_tree(run, is_full=False))
    return run


def _print_lines(states: Iterable[Run]) -> Run:
    """Print the lines that are new in each state of a run, and return the last state."""
    printed: Dict[str, str] = {}
    for run in states:
        lines = trees.status_lines(run)
        for name, line in lines.items():
            if printed.get(name) != line:
                say(f"{datetime.now():%H:%M:%S} {line}")
        printed = lines
    return run
