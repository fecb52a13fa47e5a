"""The commands that trace: logs, lineage."""

from pathlib import Path
from typing import List, Optional

import click
from magnus import defaults
from magnus.datastore import StepLog
from rich.table import Table
from rich.text import Text

from magnus_peewee_store import runs
from magnus_peewee_store.cli.console import echo_json, make_console, printable
from magnus_peewee_store.cli.group import json_option, on_database
from magnus_peewee_store.cli.types import RunCommand, RunId
from magnus_peewee_store.cli.views import echo_unreadable, find_step
from magnus_peewee_store.runs.reading import steps_of
from magnus_peewee_store.runs.tracing import hash_of, output_files
from magnus_peewee_store.store import DBStore
from magnus_peewee_store.times import format_time

STAGES = {"get": "read", "put": "wrote"}


@click.command(cls=RunCommand)
@click.argument("run_id", type=RunId())
@click.argument("step", required=False)
@on_database()
def logs(store: DBStore, run_id: str, step: Optional[str]) -> None:
    """Print the output of a run's steps, failed steps first.

    magnus keeps the output in the catalog. It keeps only the output of steps that run a function or a command.

    \b
    Example:
      magnus db logs latest:FAIL
    """
    run = runs.read_run(store, run_id)
    steps = [find_step(run, step)] if step else list(steps_of(run.complete_log))
    shown = [each for each in steps if step or each.status == defaults.FAIL or any(output_files(each))]
    unreachable: List[Path] = []
    for each in sorted(shown, key=lambda each: each.status != defaults.FAIL):
        if not step:
            click.secho(printable(f"{each.internal_name} {each.status}"), bold=True)
        unreachable += _echo_log(each)
    if any(not path.is_absolute() for path in unreachable):
        click.echo("Run this in the folder that the pipeline ran in.", err=True)
    if not shown:
        click.echo("The catalog has no output of the steps of this run.", err=True)
    echo_unreadable(run)


@click.command()
@click.argument("file_or_hash", metavar="FILE|HASH")
@on_database()
@json_option
def lineage(store: DBStore, file_or_hash: str, is_json: bool) -> None:
    """Show which runs read or wrote a file with this content, oldest first.

    It finds the files that the catalog recorded. The first 6 digits of a hash are enough.

    \b
    Example:
      magnus db lineage data/sales.csv
    """
    data_hash = hash_of(file_or_hash)
    uses = runs.lineage(store, data_hash)
    if is_json:
        echo_json([use._asdict() for use in uses])
    elif uses:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for heading in ("RUN", "STARTED", "STEP", "", "FILE"):
            table.add_column(heading, overflow="fold")
        for use in uses:
            cells = (use.run_id, format_time(use.started), use.step, STAGES.get(use.stage, use.stage), use.name)
            table.add_row(*(Text(printable(cell)) for cell in cells))
        make_console().print(table)
    else:
        click.echo(f"No run read or wrote content with the hash {data_hash}.", err=True)


def _echo_log(step: StepLog) -> List[Path]:
    """Print the output of a step and the messages of its attempts. Return the files that cannot be read."""
    unreachable: List[Path] = []
    files: List[Path] = list(output_files(step))
    for path in files:
        try:
            with path.open(encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    click.echo("\t".join(map(printable, line.rstrip("\n").split("\t"))))
        except OSError as error:
            where = printable(path.absolute())
            click.echo(f"The catalog is not reachable from here: {where}: {error.strerror}.", err=True)
            unreachable.append(path)
    if not files:
        click.echo(printable(f"The catalog has no output of the step '{step.internal_name}'."), err=True)
    for attempt in step.attempts:
        if attempt.message:
            click.secho("\n".join(map(printable, attempt.message.splitlines())), fg="red")
    return unreachable
