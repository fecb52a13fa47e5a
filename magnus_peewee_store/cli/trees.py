"""The tables and trees that the commands print."""

import sys
from dataclasses import replace
from typing import Any, Collection, Dict, Mapping, Optional, Sequence, Union

from magnus import defaults
from magnus.datastore import BranchLog, RunLog, StepLog
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from magnus_peewee_store import fragments
from magnus_peewee_store.cli.terminal import (
    TextTree,
    first_of,
    first_values,
    format_value,
    list_of,
    printable,
    run_status_text,
    say,
    status_text,
)
from magnus_peewee_store.exceptions import InvalidValueError
from magnus_peewee_store.fragments import ENDED
from magnus_peewee_store.logs import attempts_of, code_version, code_versions, elapsed, results_of, steps_of, tags_text
from magnus_peewee_store.metrics import Series, flatten_metrics, is_finite
from magnus_peewee_store.runs import Run
from magnus_peewee_store.runs.read import suggest
from magnus_peewee_store.runs.summaries import RunSummary
from magnus_peewee_store.runs.upkeep import CheckReport
from magnus_peewee_store.times import format_duration, format_time, format_utc_offset, parse_time

BLOCKS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
SPARKLINE_WIDTH = 24  # characters


def run_tree(run: Run, is_full: bool) -> TextTree:
    """Return a run as a tree of its steps and branches. Unless `is_full`, long values and lists are shortened."""
    run_log = run.complete_log
    user, host, liveness = run.origin.user, run.origin.host, run.liveness
    last_seen = "unknown, since the run has no heartbeats"
    if liveness.last_seen:
        last_seen = f"{format_time(liveness.last_seen)} ({format_duration(liveness.silence)} ago)"
    facts = {
        "started": format_time(run.started) + (f" by {user} on {host}" if user and host else ""),
        "last seen": "" if run_log.status in ENDED else last_seen,
        "tag": tags_text(run_log.tag, run.tags),
        "project": run.project,
        "pipeline": run.pipeline,
        "environment": run.origin.environment,
        "re-run of": run_log.original_run_id,
        "code": ", ".join(code_versions(run_log)),
    }
    lines = [_fact(name, value) for name, value in facts.items() if value]
    for note in run.notes:
        suffix = " ".join(filter(None, [format_time(note.time), note.user and f"by {note.user}"]))
        lines.append(_fact(f"note {note.number}", note.text, f" ({suffix})"))
    tree = TextTree(Text("\n").join([_run_label(run, run.duration), *lines]))
    if run_log.parameters:
        _add_values(tree.add(Text("parameters", "bold")), run_log.parameters, is_full, results=results_of(run.run_log))
    _add_steps(tree, run_log, is_full, run)
    return tree


def step_tree(step: StepLog, run: Run) -> TextTree:
    """Return a step of a run with everything that its log contains."""
    tree, utc_offset = TextTree(_step_label(step, run)), run.utc_offset
    facts = {"name": step.internal_name, "type": step.step_type, "message": step.message}
    for code in step.code_identities:
        if code.code_identifier:
            facts["code"] = f"{code_version(code)} {code.code_identifier_url or ''}"
    for name, value in facts.items():
        if value:
            tree.add(_fact(name, value))
    for attempt in step.attempts:
        duration = elapsed([attempt], utc_offset)
        branch = tree.add(_label(f"attempt {attempt.attempt_number}", status_text(attempt.status), duration))
        start, end = (_attempt_time(text, utc_offset) for text in (attempt.start_time, attempt.end_time))
        zone = "" if utc_offset is not None else f" ({format_utc_offset(None)})"
        branch.add(Text.assemble(("from ", "dim"), start, (" to ", "dim"), end, (zone, "dim")))
        _add_message(branch, attempt.message)
        if attempt.parameters:
            _add_values(branch.add(Text("parameters", "bold")), attempt.parameters, is_full=True)
    if step.user_defined_metrics:
        _add_values(tree.add(Text("metrics", "bold")), _with_series(step.user_defined_metrics), is_full=True)
    for data in sorted(step.data_catalog, key=lambda data: (data.stage, data.name)):
        tree.add(_fact(data.stage, data.name, f" sha256 {data.data_hash}"))
    _add_branches(tree, step, True, run)
    return tree


def echo_unreadable(run: Run) -> None:
    """Print a line for each row that cannot be read, with the reason."""
    for row in run.unreadable:
        say(f"Cannot read {row.name} of {row.run_id}: {row.reason}", err=True)


def echo_all_unreadable(found: Sequence[RunSummary]) -> None:
    """Print a line for each row of summarized runs that cannot be read."""
    for run in found:
        for name in run.unreadable:
            say(f"Cannot read {name} of {run.run_id}", err=True)


def status_lines(run: Run) -> Dict[str, str]:
    """Return a status line for each step, by its internal name. The last line is that of the run, by an empty name."""
    lines = {step.internal_name: _step_label(step, run, step.internal_name).plain for step in steps_of(run.run_log)}
    liveness = run.liveness._replace(silence=None)  # It always changes, and a line is printed when it changes.
    lines[""] = _run_label(replace(run, liveness=liveness), None).plain
    return lines


def find_step(run: Run, name: str) -> StepLog:
    """Return a step by its internal name, or by its own name if only one step has it."""
    steps = list(steps_of(run.complete_log))
    found = [step for step in steps if step.internal_name == name] or [step for step in steps if step.name == name]
    if len(found) == 1:
        return found[0]
    if found:
        names = list_of([step.internal_name for step in found])
        raise InvalidValueError(f"More than one step of run '{run.run_log.run_id}' is named '{name}': {names}")
    known = [each for step in steps for each in (step.internal_name, step.name)]
    raise InvalidValueError(f"The run '{run.run_log.run_id}' has no step '{name}'.{suggest(name, known)}")


def check_table(report: CheckReport) -> Table:
    """Return a table of what `runs.check` found."""
    without_own_row = [f"{run_id} has no row of its own" for run_id in report.without_own_row]
    duplicates = [f"{count:,} duplicate rows of {run_id}" for run_id, count in report.duplicates.items()]
    gone = report.without_original
    rows = ", ".join(f"{count:,} {attribute_type}" for attribute_type, count in sorted(report.rows.items()))
    lines_of = {
        "Database": [f"{report.product}, {report.database}"],
        "Table": [
            *(["lacks:", *report.missing] if report.missing else ["complete"]),
            *(["pk has 32 bits and is half used"] if report.widen_pk else []),
        ],
        "Rows": [f"{sum(report.rows.values()):,}{f' ({rows})' if rows else ''}"],
        "Runs": [f"{report.runs:,}", *first_of(without_own_row)],
        "Size": [decimal(report.size)],
        "Stale": first_of(report.stale),
        "Reuse": first_of([f"{run_id}: its original run {each} is gone" for run_id, each in gone.items()]),
        "Duplicates": first_of(duplicates),
        "Unreadable": first_of([f"{row.run_id}: {row}" for row in report.unreadable]),
    }
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, lines in lines_of.items():
        table.add_row(name, Text("\n".join(map(printable, lines or ["none"]))))
    return table


def _run_label(run: Run, seconds: Optional[float]) -> Text:
    status = run_status_text(run.run_log.status, run.liveness)
    if run.liveness.is_stale and seconds is not None:
        status.append(", took", "dim")  # The status has a duration, too: how long ago the run was last seen.
    return _label(run.run_log.run_id, status, seconds)


def _fact(name: str, value: str, suffix: str = "") -> Text:
    return Text.assemble((f"{name} ", "dim"), printable(value), (printable(suffix), "dim"))


def _attempt_time(text: str, utc_offset: Optional[int]) -> str:
    """Return a time of an attempt as local time if its UTC offset is known, otherwise as magnus wrote it."""
    time = parse_time(text, utc_offset) if utc_offset is not None else None
    return time.astimezone().replace(tzinfo=None).isoformat(" ", "milliseconds") if time else printable(text)


def _label(name: str, status: Text, seconds: Optional[float], suffix: str = "") -> Text:
    duration = f" {format_duration(seconds)}".rstrip()
    return Text.assemble((printable(name), "bold"), " ", status, (duration, "dim"), (suffix, "dim"))


def _step_label(step: StepLog, run: Run, name: str = "") -> Text:
    inner = [inner_step for branch in step.branches.values() for inner_step in steps_of(branch)]
    duration = elapsed(attempts_of([step, *inner]), run.utc_offset)
    suffix = "" if step.step_type in ("task", "") else f" {step.step_type}"
    if len(step.attempts) > 1:
        suffix += f" {len(step.attempts)} attempts"
    if step.mock:
        original = run.reused.get(step.internal_name)
        suffix += f" (reused from {original})" if original else " (not run)"
    return _label(name or step.name, status_text(step.status), duration, printable(suffix))


def _add_steps(tree: TextTree, log: Union[BranchLog, RunLog], is_full: bool, run: Run) -> None:
    for step in log.steps.values():
        if step.step_type in fragments.TERMINAL_STEP_TYPES:
            continue
        branch = tree.add(_step_label(step, run))
        if step.status == defaults.FAIL:
            for message in [*(attempt.message for attempt in step.attempts), step.message]:
                _add_message(branch, message)
        _add_values(branch, _with_series(step.user_defined_metrics), is_full, "metric ")
        for stage in ("get", "put"):
            # Sorted, because magnus stores them in no particular order.
            names = sorted(data.name for data in step.data_catalog if data.stage == stage)
            if names:
                branch.add(_fact(stage, ", ".join(names)))
        _add_branches(branch, step, is_full, run)


def _add_branches(tree: TextTree, step: StepLog, is_full: bool, run: Run) -> None:
    for name, branch in step.branches.items():
        duration = elapsed(attempts_of(steps_of(branch)), run.utc_offset)
        own_name = fragments.own_name(name, step.internal_name)
        label = _label(own_name, status_text(branch.status), duration, " branch")
        _add_steps(tree.add(label), branch, is_full, run)


def _add_message(tree: TextTree, message: str) -> None:
    if message:
        tree.add(Text("\n".join(map(printable, message.splitlines())), "red"))


def _with_series(metrics: Mapping[str, Any]) -> Dict[str, Any]:
    """Return metrics with each series as one value. Other dictionaries stay as they are."""
    shown: Dict[str, Any] = {}
    for name, value in metrics.items():
        flat = flatten_metrics({name: value})
        shown.update(flat if any(isinstance(each, Series) for each in flat.values()) else {name: value})
    return shown


def _sparkline(value: Any) -> str:
    """Return a curve of a series in a line of blocks, where stdout can show it."""
    stream = sys.stdout
    encoding = (stream.encoding or "").lower()
    if not isinstance(value, Series) or not stream.isatty() or not encoding.startswith("utf"):
        return ""
    # Halves, because the difference of two floats may be infinite.
    numbers = [point.value / 2 for point in value.points if is_finite(point.value)]
    low, high = min(numbers, default=0), max(numbers, default=0)
    step = max(1, -(-len(numbers) // SPARKLINE_WIDTH))
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0
    return " " + "".join(BLOCKS[int((number - low) * scale)] for number in numbers[step - 1 :: step])


def _add_values(
    tree: TextTree, values: Mapping[str, Any], is_full: bool, prefix: str = "", results: Collection[str] = ()
) -> None:
    shown, more = first_values(values, is_full)
    for name, value in shown.items():
        line = Text.assemble((f"{prefix}{printable(name)}: ", "dim"), (format_value(value, is_full), "cyan"))
        line.append(_sparkline(value), "cyan")
        tree.add(line.append(" (set by a step)", "dim") if name in results else line)
    if more:
        tree.add(Text(more, "dim"))
