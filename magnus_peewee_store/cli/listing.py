"""The command that lists runs."""

import csv
import sys
from dataclasses import asdict
from typing import Any, Dict, List, Optional, Sequence

import click

from magnus_peewee_store.cli.console import echo_json, list_of, make_console
from magnus_peewee_store.cli.filters import filter_options
from magnus_peewee_store.cli.group import json_option, on_database
from magnus_peewee_store.cli.tables import runs_table
from magnus_peewee_store.cli.views import echo_all_unreadable
from magnus_peewee_store.runs.conditions import FIELDS, METRICS, PARAMS, Condition, Name, as_text, make_filters
from magnus_peewee_store.runs.labels import all_names
from magnus_peewee_store.runs.listing import RunProgress, RunSummary, summarize, summarize_progress
from magnus_peewee_store.runs.searching import Reader, check_names, search_page
from magnus_peewee_store.store import DBStore

CSV_FIELDS = ("run_id", "status", "tag", "pipeline", "started", "duration", "steps_done", "steps_known", "failed_step")


@click.command("runs")
@filter_options
@click.option("--sort", metavar="NAME", help="Sort by this field, parameter or metric, smallest first.")
@click.option("--desc", is_flag=True, help="Sort largest first.")
@click.option("--params", "has_params", is_flag=True, help="Show the parameters.")
@click.option("--metrics", "has_metrics", is_flag=True, help="Show the metrics.")
@click.option("--columns", metavar="NAME,...", help="Show these fields, parameters and metrics.")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=20, show_default=True, help="How many runs.")
@click.option("--csv", "is_csv", is_flag=True, help="Print CSV, with all parameters and metrics.")
@on_database()
@json_option
def list_runs(
    store: DBStore,
    where: List[Condition],
    sort: Optional[str],
    desc: bool,
    has_params: bool,
    has_metrics: bool,
    columns: Optional[str],
    limit: int,
    is_csv: bool,
    is_json: bool,
) -> None:
    """List runs, newest first. Options filter and sort them.

    STEPS shows how many steps are done, and how many have begun. The last part of a metric's name is enough: rmse finds
    train.rmse.

    \b
    Example:
      magnus db runs --status FAIL --since 2d
      magnus db runs --where 'rmse<0.5' --where 'lr=0.1' --sort rmse --params --metrics
    """
    if is_csv and is_json:
        raise click.UsageError("Give either --csv or --json.")
    if desc and not sort:
        raise click.UsageError("--desc needs --sort NAME.")
    names = [Name(text.strip()) for text in (columns or "").split(",") if text.strip()]
    filters = make_filters(where)
    used = [*names, *(each.name for each in filters), *([Name(sort)] if sort else [])]
    needs_summary = is_json or is_csv or has_params or has_metrics or any(name.needs_summary for name in used)
    read: Reader[Any] = summarize if needs_summary else summarize_progress
    found, total = search_page(store, filters, sort, limit, desc, read)
    check_names(store, [name for name in names if not name.is_field and not any(map(name.values, found))])
    if is_json:
        echo_json([asdict(run) for run in found])
    elif is_csv:
        _write_csv(found, names)
    elif not found:
        click.echo("No runs match." if where else "There are no runs yet.", err=True)
    else:
        shown = list(names)
        if not names and has_params:
            shown += _names(found, PARAMS)
        if not names and has_metrics:
            shown += _names(found, METRICS)
        if not shown and sort and sort not in FIELDS:
            shown = [Name(sort)]
        _print_table(found, shown, has_status=not names)
    if total > len(found):
        click.echo(f"{len(found):,} of {total:,} runs; --limit {total} shows all", err=True)
    echo_all_unreadable(found)


def _names(found: Sequence[RunSummary], prefix: str) -> List[Name]:
    return [Name(text) for text in all_names(found, prefix)]


def _print_table(found: Sequence[RunProgress], names: Sequence[Name], has_status: bool) -> None:
    console = make_console()
    table, left_out = runs_table(found, console.width, names, has_status)
    console.print(table)
    if left_out:
        click.echo(f"No room for {list_of(left_out)}. Choose with --columns, or use --csv.", err=True)


def _write_csv(found: Sequence[RunSummary], names: Sequence[Name]) -> None:
    """Print runs as CSV. Several values of a name are separated by a comma and a space."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    if names:
        writer.writerow(["run_id", *(name.text for name in names)])
        writer.writerows([run.run_id, *(", ".join(map(_cell, name.values(run))) for name in names)] for run in found)
        return
    params, metrics = _names(found, PARAMS), _names(found, METRICS)
    writer.writerow([*CSV_FIELDS, *(name.text for name in [*params, *metrics])])
    for run in found:
        fields: Dict[str, Any] = vars(run)
        flat = {f"{PARAMS}{name}": value for name, value in run.params.items()}
        flat.update({f"{METRICS}{name}": value for name, value in run.metrics.items()})
        row = [fields[name] for name in CSV_FIELDS] + [flat.get(name.text) for name in [*params, *metrics]]
        writer.writerow(map(_cell, row))


def _cell(value: Any) -> str:
    return "" if value is None else as_text(value)
