"""The commands that show one run: show, timeline."""

import json
import shlex
import time
from datetime import datetime
from pathlib import Path
from typing import Dict, Optional

import click
from magnus import defaults
from magnus.datastore import RunLog
from rich.live import Live
from rich.segment import SegmentLines

from magnus_peewee_store import report, runs
from magnus_peewee_store.cli import views
from magnus_peewee_store.cli.console import make_console, printable
from magnus_peewee_store.cli.group import json_option, on_database
from magnus_peewee_store.cli.types import RunCommand, RunId
from magnus_peewee_store.fragments import ENDED
from magnus_peewee_store.runs.reading import read_exactly
from magnus_peewee_store.runs.transfer import write_atomically
from magnus_peewee_store.store import DBStore

POLL_SECONDS = 0.5


@click.command(cls=RunCommand)
@click.argument("run_id", type=RunId())
@click.option("--step", metavar="NAME", help="Show only this step, with its whole log.")
@click.option("--follow", is_flag=True, help="Update until the run has ended. The exit status is 0 if it succeeded.")
@on_database()
@json_option
def show(store: DBStore, run_id: str, step: Optional[str], follow: bool, is_json: bool) -> None:
    """Show one run as a tree of its steps. The beginning of the id is enough if it is unique.

    \b
    Example:
      magnus db show calm-hoover --follow
    """
    if follow and (is_json or step):
        raise click.UsageError("--follow shows the whole run as a tree. Leave out --json and --step.")
    if follow:
        _follow(store, runs.find_run(store, run_id))
        return
    run = runs.read_run(store, run_id)
    console = make_console()
    if step:
        step_log = views.find_step(run, step)
        if is_json:
            click.echo(json.dumps(step_log.model_dump(), indent=4))
        else:
            console.print(views.step_tree(step_log, run.reused))
    elif is_json:
        click.echo(json.dumps(run.run_log.model_dump(), indent=4))
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
    path = Path(output)
    draw = {".html": report.to_html, ".htm": report.to_html, ".svg": report.to_svg}.get(path.suffix.lower())
    if draw is None:
        raise click.UsageError(f"'{output}' does not end in .html or .svg.")
    run = runs.read_run(store, run_id)
    write_atomically(path, draw(run.run_log))
    click.echo(f"Wrote {output}.")
    views.echo_unreadable(run)


def _resume_command(run_log: RunLog) -> str:
    """Return the command that runs a failed run again from where it failed."""
    files = {"-f": "pipeline_file", "-c": "configuration_file", "-p": "parameters_file"}
    options = [(option, str(run_log.run_config[key])) for option, key in files.items() if run_log.run_config.get(key)]
    words = [word for option in [*options, ("--use-cached", run_log.run_id)] for word in option]
    return " ".join(map(shlex.quote, ["magnus", "execute", *words]))


def _follow(store: DBStore, run_id: str) -> None:
    """Show a run until it has ended: on a terminal as a tree, elsewhere as a line for each change."""
    console = make_console()
    run = read_exactly(store, run_id)
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while run.run_log.status not in ENDED:
                # If the tree is taller than the terminal, its end is shown: there the run continues.
                lines = console.render_lines(views.run_tree(run, is_full=False), pad=False)
                live.update(SegmentLines(lines[-(console.height - 1) :], new_lines=True), refresh=True)
                time.sleep(POLL_SECONDS)
                run = read_exactly(store, run_id)
        console.print(views.run_tree(run, is_full=False))
    else:
        printed: Dict[str, str] = {}
        while True:
            lines_now = views.status_lines(run)
            for name, line in lines_now.items():
                if printed.get(name) != line:
                    click.echo(f"{datetime.now():%H:%M:%S} {line}")
            printed = lines_now
            if run.run_log.status in ENDED:
                break
            time.sleep(POLL_SECONDS)
            run = read_exactly(store, run_id)
    views.echo_unreadable(run)
    if run.run_log.status != defaults.SUCCESS:
        click.get_current_context().exit(1)
