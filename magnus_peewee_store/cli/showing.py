"""The commands that show one run: show, timeline."""

import shlex
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any, Dict, Optional

import click
from magnus import defaults
from magnus.datastore import RunLog

from magnus_peewee_store import runs
from magnus_peewee_store.cli import following, views
from magnus_peewee_store.cli.console import echo_json, make_console, printable
from magnus_peewee_store.cli.group import json_option, on_database
from magnus_peewee_store.cli.types import Age, RunCommand, RunId
from magnus_peewee_store.runs.files import write_atomically
from magnus_peewee_store.store import DBStore


@click.command(cls=RunCommand)
@click.argument("run_id", type=RunId())
@click.option("--step", metavar="NAME", help="Show only this step, with its whole log.")
@click.option("--follow", is_flag=True, help="Update until the run has ended. The exit status is 0 if it succeeded.")
@click.option(
    "--give-up-after",
    type=Age(),
    default="10m",
    show_default=True,
    metavar="AGE",
    help="With --follow: stop if a stale run was last seen at least this long ago.",
)
@on_database()
@json_option
def show(
    store: DBStore, run_id: str, step: Optional[str], follow: bool, give_up_after: timedelta, is_json: bool
) -> None:
    """Show one run as a tree of its steps. The beginning of the id is enough if it is unique.

    --follow waits for a run that does not exist yet. It ends with exit status 2 if the run was interrupted or is stale.

    \b
    Example:
      magnus db show calm-hoover --follow
    """
    if follow and (is_json or step):
        raise click.UsageError("--follow shows the whole run as a tree. Leave out --json and --step.")
    if follow:
        run = following.follow(store, run_id, give_up_after)
        views.echo_unreadable(run)
        following.exit_with_status_of(run)
        return
    run = runs.read_run(store, run_id)
    console = make_console()
    if step:
        step_log = views.find_step(run, step)
        if is_json:
            reused = run.reused.get(step_log.internal_name)
            echo_json({**step_log.model_dump(), "reused": reused, "utc_offset": run.utc_offset}, indent=4)
        else:
            console.print(views.step_tree(step_log, run.reused, run.utc_offset))
    elif is_json:
        echo_json({**run.complete_log.model_dump(), **_facts_about(run)}, indent=4)
    else:
        console.print(views.run_tree(run, is_full=not console.is_terminal))
        if run.run_log.status == defaults.FAIL:
            click.echo(f"Resume it with: {printable(_resume_command(run.run_log))}")
    views.echo_unreadable(run)


@click.command(cls=RunCommand)
@click.argument("run_id", type=RunId())
@click.option("-o", "--output", metavar="FILE", required=True, help="The file to write. It ends in .html or .svg.")
@on_database()
def timeline(store: DBStore, run_id: str, output: str) -> None:
    """Draw the steps of one run over time.

    \b
    Example:
      magnus db timeline calm-hoover -o run.html
    """
    # Imported here because every magnus command loads this module, and this import is slow.
    from magnus_peewee_store.report import to_html, to_svg

    path = Path(output)
    draw = {".html": to_html, ".htm": to_html, ".svg": to_svg}.get(path.suffix.lower())
    if draw is None:
        raise click.UsageError(f"'{output}' does not end in .html or .svg.")
    run = runs.read_run(store, run_id)
    write_atomically(path, draw(run))
    click.echo(f"Wrote {output}.")
    views.echo_unreadable(run)


def _facts_about(run: runs.Run) -> Dict[str, Any]:
    """Return the facts about a run that its log does not contain."""
    return {
        "started": run.started,
        "duration": run.duration,
        "utc_offset": run.utc_offset,
        "reused": run.reused,
        "pipeline": run.pipeline,
        "project": run.project,
        "user": run.origin.user,
        "host": run.origin.host,
        "tags": run.tags,
        "notes": [asdict(note) for note in run.notes],
        **run.liveness._asdict(),
    }


def _resume_command(run_log: RunLog) -> str:
    """Return the command that runs a failed run again from where it failed."""
    files = {"-f": "pipeline_file", "-c": "configuration_file", "-p": "parameters_file"}
    options = [(option, str(run_log.run_config[key])) for option, key in files.items() if run_log.run_config.get(key)]
    words = [word for option in [*options, ("--use-cached", run_log.run_id)] for word in option]
    return " ".join(map(shlex.quote, ["magnus", "execute", *words]))
