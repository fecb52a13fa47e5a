"""The commands that show runs: runs, show, timeline, diff."""

from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Dict, Optional

import click

from magnus_peewee_store import report, runs
from magnus_peewee_store.cli import following, views
from magnus_peewee_store.cli.console import echo_json, list_of, make_console, printable
from magnus_peewee_store.cli.group import json_option, on_database
from magnus_peewee_store.cli.types import Age, Time
from magnus_peewee_store.runs.finding import suggest
from magnus_peewee_store.runs.reading import steps_of
from magnus_peewee_store.runs.transfer import write_atomically
from magnus_peewee_store.store import DBStore


@click.command("runs")
@click.option("--status", help="Only runs with this status, such as FAIL.")
@click.option("--tag", help="Only runs with this tag.")
@click.option("--since", type=Time(), help="Only runs that started since: 2d (or s, m, h, w), or 2024-01-31T09:00.")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=20, show_default=True, help="How many runs.")
@on_database()
@json_option
def list_runs(
    store: DBStore, status: Optional[str], tag: Optional[str], since: Optional[datetime], limit: int, is_json: bool
) -> None:
    """List runs, newest first. Options filter them.

    STEPS shows how many steps are done, of those that have begun.

    \b
    Example:
      magnus db runs --status FAIL --since 2d
    """
    summaries = runs.list_runs(store, status=(status or "").upper(), tag=tag or "", since=since, limit=limit)
    if is_json:
        echo_json([asdict(run) for run in summaries])
    elif summaries:
        console = make_console()
        console.print(views.runs_table(summaries, console.width))
    else:
        click.echo("No runs match." if status or tag or since else "There are no runs yet.", err=True)
    for run in summaries:
        for row in run.unreadable:
            click.echo(printable(f"Cannot read {row} of {run.run_id}"), err=True)


@click.command()
@click.argument("run_id")
@click.option("--step", metavar="NAME", help="Show only this step, with its whole log.")
@click.option("--follow", is_flag=True, help="Update until the run has ended. The exit status is 0 if it succeeded.")
@click.option(
    "--give-up-after",
    type=Age(),
    default="10m",
    show_default=True,
    metavar="AGE",
    help="With --follow: end if a stale run was last seen so long ago.",
)
@on_database()
@json_option
def show(
    store: DBStore, run_id: str, step: Optional[str], follow: bool, give_up_after: timedelta, is_json: bool
) -> None:
    """Show one run as a tree of its steps. The beginning of the id is enough if it is unique.

    --follow waits for a run that does not exist yet. It ends with exit status 2 if the run was
    interrupted or is stale.

    \b
    Example:
      magnus db show calm-hoover --follow
    """
    if follow and (is_json or step):
        raise click.UsageError("--follow shows the whole run as a tree. Leave out --json and --step.")
    if follow:
        run = following.follow(store, run_id, give_up_after)
        _echo_unreadable(run)
        following.exit_with_status_of(run)
        return
    run = runs.read_run(store, run_id)
    console = make_console()
    if step:
        step_log = _find_step(run, step)
        if is_json:
            echo_json({**step_log.model_dump(), "utc_offset": run.utc_offset}, indent=4)
        else:
            console.print(views.step_tree(step_log, run.utc_offset))
    elif is_json:
        echo_json({**run.run_log.model_dump(), **_facts_about(run)}, indent=4)
    else:
        console.print(views.run_tree(run, is_full=not console.is_terminal))
    _echo_unreadable(run)


@click.command()
@click.argument("run_id")
@click.option("-o", "--output", metavar="FILE", required=True, help="The file to write. It ends in .html or .svg.")
@on_database()
def timeline(store: DBStore, run_id: str, output: str) -> None:
    """Draw the steps of one run over time.

    \b
    Example:
      magnus db timeline calm-hoover -o run.html
    """
    path = Path(output)
    draw = {".html": report.to_html, ".htm": report.to_html, ".svg": report.to_svg}.get(path.suffix.lower())
    if draw is None:
        raise click.UsageError(f"'{output}' does not end in .html or .svg.")
    run = runs.read_run(store, run_id)
    write_atomically(path, draw(run))
    click.echo(f"Wrote {output}.")
    _echo_unreadable(run)


@click.command()
@click.argument("run_a")
@click.argument("run_b")
@on_database()
@json_option
def diff(store: DBStore, run_a: str, run_b: str, is_json: bool) -> None:
    """Show what differs between two runs: parameters, metrics, code version, and the status and duration of steps.

    \b
    Example:
      magnus db diff calm-hoover keen-curie
    """
    pair = [runs.read_run(store, run_id) for run_id in (run_a, run_b)]
    a, b = (run.run_log for run in pair)
    differences = runs.diff(a, b)
    if is_json:
        echo_json(differences)
    else:
        console = make_console()
        tree = views.diff_tree((a.run_id, b.run_id), differences, is_full=not console.is_terminal)
        if tree.children:
            console.print(tree)
        else:
            click.echo("Nothing differs.")
    for run in pair:
        _echo_unreadable(run)


def _facts_about(run: runs.Run) -> Dict[str, Any]:
    """Return what is known of a run besides its log."""
    return {
        "started": run.started,
        "duration": run.duration,
        "utc_offset": run.utc_offset,
        "pipeline": run.pipeline,
        "project": run.project,
        "user": run.origin.user,
        "host": run.origin.host,
        "tags": run.tags,
        "notes": [asdict(note) for note in run.notes],
        **run.liveness._asdict(),
    }


def _find_step(run: runs.Run, name: str) -> Any:
    """Return a step by its internal name, or by its own name if only one step has it."""
    steps = list(steps_of(run.run_log))
    found = [step for step in steps if step.internal_name == name] or [step for step in steps if step.name == name]
    if len(found) == 1:
        return found[0]
    if found:
        names = list_of([step.internal_name for step in found])
        message = printable(f"More than one step of run '{run.run_log.run_id}' is named '{name}'")
        raise click.ClickException(f"{message}: {names}")
    known = [each for step in steps for each in (step.internal_name, step.name)]
    raise click.ClickException(printable(f"The run '{run.run_log.run_id}' has no step '{name}'.{suggest(name, known)}"))


def _echo_unreadable(run: runs.Run) -> None:
    for line in views.unreadable_lines(run.unreadable):
        click.echo(line, err=True)
