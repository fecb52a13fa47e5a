"""The commands that show runs and what they used: show, timeline, diff, logs, lineage, report."""

import os
import re
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

import click
from magnus import defaults
from magnus.datastore import StepLog
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from magnus_peewee_store import runs
from magnus_peewee_store.cli import CATALOG, trees
from magnus_peewee_store.cli.follow import follow_run
from magnus_peewee_store.cli.lists import shrink
from magnus_peewee_store.cli.options import age, complete_run_id, filter_options, json_option, on_database
from magnus_peewee_store.cli.terminal import (
    TextLines,
    TextTree,
    echo_json,
    first_values,
    format_value,
    list_of,
    make_console,
    printable,
    progress_bar,
    say,
    shell_words,
)
from magnus_peewee_store.heartbeat import state_of
from magnus_peewee_store.logs import steps_of
from magnus_peewee_store.metrics import last_value
from magnus_peewee_store.report.site import write_site
from magnus_peewee_store.runs.compare import Differences, StepState
from magnus_peewee_store.runs.lineage import hash_of, output_files, read_output
from magnus_peewee_store.runs.search import Condition, without_equal
from magnus_peewee_store.runs.transfer import write_atomically
from magnus_peewee_store.runs.upkeep import run_folders
from magnus_peewee_store.store import DBStore
from magnus_peewee_store.timeline import to_html, to_svg
from magnus_peewee_store.timeline.layout import shorten
from magnus_peewee_store.timeline.page import HASH_LENGTH, shorten_hash
from magnus_peewee_store.times import format_duration, format_time

LARGEST_OUTPUT = 10_000_000  # bytes of a file that `logs` prints
OUTPUT_ON_PAGE = 20_000  # bytes of the output of a step on the page of its run
LONG_HASH = re.compile(r"\b[0-9a-f]{32,}\b")
STAGES = {"get": "read", "put": "wrote"}
# Widths in the table of three or more runs, in characters.
LONGEST_CELL = 26
SHORTEST_LABEL = 14


@click.command()
@click.argument("run_id", shell_complete=complete_run_id)
@click.option("--step", metavar="NAME", help="Show only this step, with its whole log.")
@click.option("--environment", is_flag=True, help="Show which Python, magnus and packages it was started with.")
@click.option("--follow", is_flag=True, help="Update until the run has ended. The exit status is 0 if it succeeded.")
@click.option(
    "--give-up-after",
    type=age,
    default="10m",
    show_default=True,
    metavar="AGE",
    help="With --follow: stop if a stale run was last seen at least this long ago.",
)
@on_database()
@json_option
def show(
    store: DBStore,
    run_id: str,
    step: Optional[str],
    environment: bool,
    follow: bool,
    give_up_after: timedelta,
    is_json: bool,
) -> None:
    """Show one run as a tree of its steps. The beginning of the id is enough if it is unique.

    --follow waits for a run that does not exist yet. It ends with exit status 2 if the run was interrupted or is stale.

    \b
    Example:
      magnus db show calm-hoover --follow
    """
    if follow and (is_json or step or environment):
        raise click.UsageError("--follow shows the whole run as a tree. Leave out the other options.")
    if step and environment:
        raise click.UsageError("Give either --step or --environment.")
    if follow:
        follow_run(store, run_id, give_up_after)
        return
    run = runs.read_run(store, run_id)
    console = make_console()
    if environment:
        _echo_environment(run, is_json)
    elif step:
        step_log = trees.find_step(run, step)
        if is_json:
            reused = run.reused.get(step_log.internal_name)
            echo_json({**step_log.model_dump(), "reused": reused, "utc_offset": run.utc_offset}, indent=4)
        else:
            console.print(trees.step_tree(step_log, run))
    elif is_json:
        echo_json({**run.complete_log.model_dump(), **_facts_about(run)}, indent=4)
    else:
        console.print(trees.run_tree(run, is_full=not console.is_terminal))
        command = resume_command(run)
        if command:
            say(f"{run.resume_label}: {command}")
    trees.echo_unreadable(run)


with_output_option = click.option(
    "--with-output",
    is_flag=True,
    help="Show the end of the output of failed steps, from the catalog. It may contain secrets.",
)


@click.command()
@click.argument("run_id", shell_complete=complete_run_id)
@click.option("-o", "--output", metavar="FILE", required=True, help="The file to write. It ends in .html or .svg.")
@with_output_option
@on_database()
def timeline(store: DBStore, run_id: str, output: str, with_output: bool) -> None:
    """Draw the steps of one run over time. The HTML page has its parameters, metrics with curves and data, too.

    \b
    Example:
      magnus db timeline calm-hoover -o run.html
    """
    path = Path(output)
    if path.suffix.lower() not in (".html", ".htm", ".svg"):
        raise click.UsageError(f"'{output}' does not end in .html or .svg.")
    run = runs.read_run(store, run_id)
    if path.suffix.lower() == ".svg":
        write_atomically(path, to_svg(run))
    else:
        write_atomically(path, to_html(run, None, resume_command(run), _outputs(run) if with_output else None))
    say(f"Wrote {output}.")
    trees.echo_unreadable(run)


def _echo_environment(run: runs.Run, is_json: bool) -> None:
    if is_json:
        echo_json({"python": run.origin.python, "magnus": run.origin.magnus, "packages": run.packages})
    elif not run.packages and not run.origin.environment:
        say(f"Run '{run.run_log.run_id}' has no record of its environment.", err=True)
    else:
        say("\n".join(filter(None, [run.origin.environment, *run.packages])))


@click.command()
@click.argument("metric")
@click.argument("run_ids", shell_complete=complete_run_id, nargs=-1, required=True, metavar="RUN_ID...")
@click.option("-o", "--output", metavar="FILE.html", help="The file to write. The default is METRIC.html.")
@on_database()
def plot(store: DBStore, metric: str, run_ids: Tuple[str, ...], output: Optional[str]) -> None:
    """Plot a metric by its iterations, with a curve for each run. It needs plotly.

    \b
    Example:
      magnus db plot loss calm-hoover keen-curie
    """
    path = Path(output or f"{metric.replace(os.sep, '_')}.html")
    if path.suffix.lower() not in (".html", ".htm"):
        raise click.UsageError(f"'{path}' does not end in .html.")
    figure = runs.plot(store, run_ids, metric)
    write_atomically(path, figure.to_html())
    say(f"Wrote {path}.")


def _facts_about(run: runs.Run) -> Dict[str, Any]:
    """Return the facts about a run that its log does not contain."""
    return {
        "state": state_of(run.run_log.status, run.liveness.is_stale, run.liveness.is_interrupted),
        "started": run.started,
        "duration": run.duration,
        "utc_offset": run.utc_offset,
        "reused": run.reused,
        "pipeline": run.pipeline,
        "project": run.project,
        "user": run.origin.user,
        "host": run.origin.host,
        "environment": run.origin.environment,
        "tags": run.tags,
        "notes": [asdict(note) for note in run.notes],
        **run.liveness._asdict(),
    }


def _outputs(run: runs.Run) -> Dict[str, str]:
    """Return the end of the output of each failed step, as far as the catalog can be read, by its internal name."""
    catalog = Path(click.get_current_context().meta[CATALOG])
    folders = list(run_folders(catalog, {run.run_log.run_id, *run.reused.values()}).values())
    return {
        step.internal_name: "\n".join(
            read_output(catalog, folders, name, OUTPUT_ON_PAGE).text for name in output_files(step)
        )
        for step in steps_of(run.complete_log)
        if step.status == defaults.FAIL and folders
    }


def resume_command(run: runs.Run) -> str:
    """Return the command that runs a run again, from where it failed or died if possible; empty if it did neither."""
    run_log = run.run_log
    if run_log.status != defaults.FAIL and not run.liveness.is_stale:
        return ""
    config = run_log.run_config
    if not config.get("pipeline_file"):  # a run of the SDK
        options = {"use_cached": run_log.run_id if run.is_resumable else "", "tag": run_log.tag}
        arguments = "".join(f", {name}={value!r}" for name, value in options.items() if value)
        return f"{_start_of(run.origin.script)}, with execute(...{arguments})"
    options = {
        "-f": config["pipeline_file"],
        "-c": config.get("configuration_file"),
        "-p": config.get("parameters_file"),
        "--tag": run_log.tag,
        "--use-cached": run_log.run_id if run.is_resumable else "",
    }
    words = [word for option, value in options.items() if value for word in (option, str(value))]
    return shell_words("magnus", "execute", *words)


def _start_of(script: Optional[str]) -> str:
    """Return what starts a run of the SDK: the command that runs its script, or its notebook."""
    if not script:  # for example a notebook that nbclient or papermill ran: its kernel does not know the name
        return "its script"
    return f"the notebook {shell_words(script)}" if script.endswith(".ipynb") else shell_words("python", script)


@click.command()
@click.argument("run_ids", shell_complete=complete_run_id, nargs=-1, required=True, metavar="RUN_ID RUN_ID...")
@click.option("--only", metavar="SECTION,...", help=f"Show only these sections: {', '.join(Differences._fields)}.")
@on_database()
@json_option
def diff(store: DBStore, run_ids: Tuple[str, ...], only: Optional[str], is_json: bool) -> None:
    """Show what differs between runs: parameters, metrics, data, code version, and how their steps went.

    Durations are equal if they differ by less than 10% or 100 ms.

    \b
    Example:
      magnus db diff calm-hoover keen-curie
      magnus db diff latest latest~1 latest~2 --only parameters,metrics
    """
    sections = [section.strip() for section in (only or "").split(",") if section.strip()]
    unknown = [section for section in sections if section not in Differences._fields]
    if unknown:
        raise click.UsageError(f"'{unknown[0]}' is not one of {', '.join(Differences._fields)}.")
    found = {run.run_log.run_id: run for run in [runs.read_run(store, run_id) for run_id in run_ids]}
    if len(run_ids) < 2:
        raise click.UsageError("Give at least two runs.")
    left_out: Dict[str, Any] = {name: {} for name in Differences._fields if sections and name not in sections}
    differences = runs.compare(list(found.values()))._replace(**left_out)
    if is_json:
        names = ["a", "b"] if len(found) == 2 else list(found)
        echo_json(_to_json(differences, dict(zip(found, names))))
    elif not any(differences):
        say("Nothing differs.")
    else:
        console = make_console()
        is_full = not console.is_terminal
        if len(found) == 2:
            console.print(diff_tree(list(found), differences, is_full))
        else:
            console.print(diff_table(list(found), differences, console.width, is_full))
    for run in found.values():
        trees.echo_unreadable(run)


def diff_tree(run_ids: Sequence[str], differences: Differences, is_full: bool) -> TextTree:
    """Return what differs between two runs, as a tree. Unless `is_full`, long values and sections are shortened."""
    tree = TextTree(_change(*map(printable, run_ids)))
    for section, rows in differences._asdict().items():
        branch = tree.add(Text(section, "bold")) if rows else tree
        shown, more = first_values(rows, is_full)
        for name, row in shown.items():
            a, b = _cells(section, [row.get(run_id) for run_id in run_ids], is_full)
            branch.add(_change(a, b, f"{printable(name)}: "))
        if more:
            branch.add(Text(more, "dim"))
    return tree


def diff_table(run_ids: Sequence[str], differences: Differences, width: int, is_full: bool) -> TextLines:
    """Return what differs between three or more runs, as a table with a column for each run.

    What the ids begin with is the heading of the labels. If the ids have no room, numbers stand for them. A label that
    is longer than its column has a line of its own. Unless `is_full`, long values and sections are shortened.
    """
    beginning = _common_beginning(run_ids)
    rows = [[printable(beginning), *(printable(run_id[len(beginning) :]) for run_id in run_ids)]]
    for section, values_of in differences._asdict().items():
        rows += [[section]] if values_of else []
        shown, more = first_values(values_of, is_full)
        for head, names in _grouped(shown, " " if section == "data" else "."):
            rows += [[f"  {printable(head)}"]] if head else []
            for name in names:
                values = [values_of[name].get(run_id) for run_id in run_ids]
                last = [last_value(value) for value in values]
                # A cell has no room for the minimum of a series.
                cells = _cells(section, last if not is_full and len({*map(str, last)}) > 1 else values, is_full)
                short = [shorten(cell, LONGEST_CELL) for cell in cells]
                is_clear = not is_full and len({*short}) == len({*cells})
                indent = "    " if head else "  "
                rows.append([f"{indent}{printable(name[len(head) :])}", *(short if is_clear else cells)])
        rows += [[f"  {more}"]] if more else []
    lines: List[Union[Table, Text]] = []
    widths = [max(map(cell_len, column)) for column in zip(*(row for row in rows if len(row) > 1))]
    if sum(widths[1:]) + len(run_ids) > width - SHORTEST_LABEL:
        lines = [Text(f"{number} {printable(run_id)}") for number, run_id in enumerate(run_ids, start=1)]
        rows[0] = ["", *(str(number) for number, _ in enumerate(run_ids, start=1))]
        widths = [max(map(cell_len, column)) for column in zip(*(row for row in rows if len(row) > 1))]
    shrink(widths, [SHORTEST_LABEL, *[HASH_LENGTH] * len(run_ids)], width, gap=1)
    for number, (label, *cells) in enumerate(rows):
        if cell_len(label) > widths[0] or not cells:
            lines.append(Text(label, "dim" if label.startswith(" ") else "bold"))
            label = ""
        if cells:
            lines.append(_aligned([label, *cells], widths, "" if number else "bold"))
    return TextLines(lines)


def _aligned(cells: Sequence[str], widths: Sequence[int], style: str) -> Union[Table, Text]:
    """Return a row with cells of these widths. Cells that are longer are folded."""
    spare = [width - cell_len(cell) for cell, width in zip(cells, widths)]
    if min(spare) >= 0:
        label, *padded = [f"{cell}{' ' * count} " for cell, count in zip(cells, spare)]
        return Text.assemble((label, "dim"), ("".join(padded).rstrip(), style))
    table = Table.grid(padding=(0, 1, 0, 0))
    for width in widths:
        table.add_column(width=width, overflow="fold")
    table.add_row(Text(cells[0], "dim"), *(Text(cell, style) for cell in cells[1:]))
    return table


def _grouped(names: Iterable[str], separator: str) -> List[Tuple[str, List[str]]]:
    """Return the names by what they begin with, up to the last separator; a name that is alone, by an empty text."""
    groups: Dict[str, List[str]] = {}
    for name in names:
        groups.setdefault(name[: name.rfind(separator) + 1], []).append(name)
    return [(head if len(group) > 1 else "", group) for head, group in groups.items()]


def _common_beginning(names: Sequence[str]) -> str:
    """Return what all names begin with, up to the end of a word."""
    match = re.match(r"(.*[-_. /]).+\0\1.+", f"{min(names)}\0{max(names)}", re.DOTALL)
    return match[1] if match else ""


def _to_json(differences: Differences, names: Mapping[str, str]) -> Dict[str, Any]:
    """Return differences as dictionaries. In them, the runs have the names that `names` gives for their ids."""
    return {
        section: {name: {names[run_id]: _value(each) for run_id, each in row.items()} for name, row in rows.items()}
        for section, rows in differences._asdict().items()
    }


def _value(value: Any) -> Any:
    if not isinstance(value, StepState):
        return last_value(value)
    return {key: each for key, each in value._asdict().items() if key != "reused" or each}


def _change(a: str, b: str, name: str = "") -> Text:
    return Text.assemble((name, "dim"), (a, "red"), (" \u2192 ", "dim"), (b, "green"))


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
    text = format_value(value, is_full)
    return LONG_HASH.sub(lambda match: shorten_hash(match[0]), text) if section in ("run", "data", "code") else text


@click.command()
@click.argument("run_id", shell_complete=complete_run_id)
@click.argument("step", required=False)
@click.option("--catalog", metavar="DIR", help="The folder of the file-system catalog, instead of the configured one.")
@on_database()
def logs(store: DBStore, run_id: str, step: Optional[str], catalog: Optional[str]) -> None:
    """Print the output of a run's steps, failed steps first.

    magnus keeps the output in the catalog. It keeps only the output of steps that run a function or a command. Of a
    larger file, the last 10 MB are printed.

    \b
    Example:
      magnus db logs latest:FAIL
    """
    run = runs.read_run(store, run_id)
    steps = [trees.find_step(run, step)] if step else list(steps_of(run.complete_log))
    shown = [each for each in steps if step or each.status == defaults.FAIL or any(output_files(each))]
    folder = Path(catalog or click.get_current_context().meta[CATALOG])
    folders = run_folders(folder, {run.run_log.run_id, *run.reused.values()})
    if not folders and any(map(output_files, shown)):
        say(
            f"The catalog is not reachable from here: {folder.absolute()} has no folder of this run. "
            "Run this in the folder that the pipeline ran in, or name the catalog with --catalog DIR.",
            err=True,
        )
    for each in sorted(shown, key=lambda each: each.status != defaults.FAIL):
        if not step:
            say(f"{each.internal_name} {each.status}", bold=True)
        _echo_log(each, folder, list(folders.values()))
    if not shown:
        say("The catalog has no output of the steps of this run.", err=True)
    trees.echo_unreadable(run)


@click.command()
@click.argument("what", metavar="FILE|HASH|NAME", required=False)
@click.option("--upstream", metavar="RUN_ID", help="Show which runs first wrote what this run read, and so on.")
@on_database()
@json_option
def lineage(store: DBStore, what: Optional[str], upstream: Optional[str], is_json: bool) -> None:
    """Show which runs read or wrote a file with this content, oldest first.

    It finds the files that the catalog recorded. The first 6 digits of a hash are enough. For the name of a catalogued
    file, it lists the versions of the file: its contents, by hash.

    \b
    Example:
      magnus db lineage data/sales.csv
      magnus db lineage --upstream calm-hoover
    """
    if (what is None) == (upstream is None):
        raise click.UsageError("Give FILE, HASH or NAME, or --upstream RUN_ID.")
    if upstream is not None:
        _echo_upstream(store, runs.find_run(store, upstream), is_json)
        return
    text = str(what)
    uses = runs.lineage(store, text)
    data_hash = hash_of(text)
    is_content = bool(data_hash) and all(use.data_hash.startswith(str(data_hash)) for use in uses)
    if is_json:
        echo_json([each._asdict() for each in (uses if is_content else runs.versions(store, text))])
        return
    if uses and is_content:
        rows = [[use.run_id, format_time(use.started), use.step, STAGES.get(use.stage, ""), use.name] for use in uses]
        _echo_table(("RUN", "STARTED", "STEP", "", "FILE"), rows)
    elif is_content:
        say(f"No run read or wrote content with the hash {data_hash}.", err=True)
    found = runs.versions(store, text) if not is_content or Path(text).is_file() else []
    if found:
        if is_content:
            say(f"\nVersions of {text}:")
        rows = [
            [shorten_hash(version.data_hash), *map(format_time, version[1:3]), list_of(version.run_ids)]
            for version in found
        ]
        _echo_table(("HASH", "FIRST SEEN", "LAST SEEN", "RUNS"), rows)


def _echo_upstream(store: DBStore, run_id: str, is_json: bool) -> None:
    """Print the inputs of a run, below each the inputs of the run that wrote it. A run is drawn in full once."""
    inputs = runs.upstream(store, run_id)
    if is_json:
        echo_json([{**each._asdict(), "source": each.source._asdict()} for each in inputs])
        return
    if not inputs:
        say(f"No other run wrote what {run_id} read.", err=True)
        return
    tree = TextTree(Text(printable(run_id), "bold"))
    branches = {run_id: tree}
    for each in inputs:
        source = each.source
        label = f"{each.name} {shorten_hash(source.data_hash)} from "
        text = Text.assemble(
            (printable(label), "dim"), (printable(source.run_id), "bold"), f" {printable(source.step)}"
        )
        branches.setdefault(source.run_id, branches[each.run_id].add(text))
    make_console().print(tree)


def _echo_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    make_console().print(table)


def _echo_log(step: StepLog, catalog: Path, folders: Sequence[Path]) -> None:
    """Print the output of a step and the messages of its attempts. A file outside of the folders is not opened."""
    files = output_files(step)
    for name in files if folders else ():
        output = read_output(catalog, folders, name, LARGEST_OUTPUT)
        if output.problem:
            say(output.problem, err=True)
        if output.left_out:
            size = LARGEST_OUTPUT + output.left_out
            say(f"The file has {size:,} bytes. The first {output.left_out:,} are not shown.", err=True)
        for line in output.text.splitlines():
            say(line)
    if not files:
        say(f"The catalog has no output of the step '{step.internal_name}'.", err=True)
    for attempt in step.attempts:
        if attempt.message:
            say(attempt.message, fg="red")


@click.command()
@filter_options
@click.option("-o", "--output", metavar="DIR", required=True, help="The folder to write to.")
@click.option("--only-changed", is_flag=True, help="Leave out the parameters and metrics that all runs have alike.")
@with_output_option
@on_database()
def report(store: DBStore, where: List[Condition], output: str, only_changed: bool, with_output: bool) -> None:
    """Write a static site of runs: a table, a comparison, plots of metrics, and a page for each run.

    It replaces an earlier report in DIR. It needs plotly and itables.

    \b
    Example:
      magnus db report -o report --since 30d
    """
    found = runs.search(store, where)
    shown = without_equal(found) if only_changed else found
    with progress_bar("runs", len(found)) as advance:
        outputs = _outputs if with_output else lambda run: {}
        index = write_site(store, shown, Path(output), where, advance, resume_command, outputs)
    say(f"Wrote {index}.")
    trees.echo_all_unreadable(found)
