"""The command that compares runs."""

from typing import Any, Dict, Mapping, Sequence, Tuple

import click
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from magnus_peewee_store import runs
from magnus_peewee_store.cli.console import echo_json, make_console, printable
from magnus_peewee_store.cli.group import json_option, on_database
from magnus_peewee_store.cli.types import RunCommand, RunId
from magnus_peewee_store.cli.values import format_value
from magnus_peewee_store.cli.views import echo_unreadable
from magnus_peewee_store.store import DBStore
from magnus_peewee_store.times import format_duration

HASH_LENGTH = 12  # digits of a hash that are shown


@click.command(cls=RunCommand)
@click.argument("run_ids", nargs=-1, required=True, type=RunId(), metavar="RUN_ID RUN_ID...")
@on_database()
@json_option
def diff(store: DBStore, run_ids: Tuple[str, ...], is_json: bool) -> None:
    """Show what differs between runs: parameters, metrics, data, code version, and how their steps went.

    Durations are equal if they differ by less than 10% or 100 ms.

    \b
    Example:
      magnus db diff calm-hoover keen-curie
      magnus db diff latest -2 -3
    """
    found = {run.run_log.run_id: run for run in [runs.read_run(store, run_id) for run_id in run_ids]}
    if len(run_ids) < 2:
        raise click.UsageError("Give at least two runs.")
    differences = runs.compare(list(found.values()))
    if is_json:
        names = ["a", "b"] if len(found) == 2 else list(found)
        echo_json(_to_json(differences, dict(zip(found, names))))
    elif not any(differences):
        click.echo("Nothing differs.")
    else:
        console = make_console()
        view = diff_tree if len(found) == 2 else diff_table
        console.print(view(list(found), differences, is_full=not console.is_terminal))
    for run in found.values():
        echo_unreadable(run)


def diff_tree(run_ids: Sequence[str], differences: runs.Differences, is_full: bool) -> Tree:
    """Return what differs between two runs, as a tree. Long values are shortened unless `is_full`."""
    a, b = map(printable, run_ids)
    tree = Tree(_change(a, b))
    for section, rows in differences._asdict().items():
        branch = tree.add(Text(section, "bold")) if rows else tree
        for name, row in rows.items():
            a, b = _cells(section, [row.get(run_id) for run_id in run_ids], is_full)
            branch.add(Text.assemble((f"{printable(name)}: ", "dim")).append_text(_change(a, b)))
    return tree


def diff_table(run_ids: Sequence[str], differences: runs.Differences, is_full: bool) -> Table:
    """Return what differs between three or more runs, as a table with a column for each run."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("")
    for run_id in run_ids:
        table.add_column(printable(run_id), overflow="fold")
    for section, rows in differences._asdict().items():
        if rows:
            table.add_row(Text(section, "bold"))
        for name, row in rows.items():
            cells = _cells(section, [row.get(run_id) for run_id in run_ids], is_full)
            table.add_row(Text(f"  {printable(name)}", "dim"), *map(Text, cells))
    return table


def _to_json(differences: runs.Differences, names: Mapping[str, str]) -> Dict[str, Any]:
    """Return differences as dictionaries. In them, the runs have the names that `names` gives for their ids."""
    return {
        section: {name: {names[run_id]: _value(each) for run_id, each in row.items()} for name, row in rows.items()}
        for section, rows in differences._asdict().items()
    }


def _value(value: Any) -> Any:
    if not isinstance(value, runs.StepState):
        return value
    return {key: each for key, each in value._asdict().items() if key != "reused" or each}


def _change(a: str, b: str) -> Text:
    return Text.assemble((a, "red"), (" \u2192 ", "dim"), (b, "green"))


def _cells(section: str, values: Sequence[Any], is_full: bool) -> Sequence[str]:
    cells = [_cell(section, value, is_full) for value in values]
    # If values that differ look equal when shortened, show them in full.
    return cells if len(set(cells)) > 1 else [str(value) for value in values]


def _cell(section: str, value: Any, is_full: bool) -> str:
    if value in (None, ""):
        return "-"
    if section == "steps":
        reused = f" (reused from {value.reused})" if value.reused else ""
        return f"{printable(value.status)} {format_duration(value.duration)}".rstrip() + printable(reused)
    return printable(value[:HASH_LENGTH]) if section == "data" else format_value(value, is_full)
