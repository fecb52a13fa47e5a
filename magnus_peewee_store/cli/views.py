<<<<<<< HEAD
"""The tables and trees that the commands print."""

import json
=======
"""What the commands draw on a terminal, or write into a pipe, where nothing is cut."""

import json
import sys
from datetime import datetime, timedelta
from io import TextIOWrapper
>>>>>>> report
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

from magnus import defaults
from magnus.datastore import BranchLog, RunLog, StepAttempt, StepLog
<<<<<<< HEAD
from rich.filesize import decimal
=======
from rich.console import Console
>>>>>>> report
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from magnus_peewee_store import fragments
<<<<<<< HEAD
from magnus_peewee_store.cli.console import LIST_LENGTH, UNLIMITED, printable
from magnus_peewee_store.runs import CheckReport, Run, RunSummary, UnreadableRow
from magnus_peewee_store.runs.reading import attempts_of, code_version, code_versions, duration_of, steps_of
from magnus_peewee_store.times import format_duration, format_time
=======
from magnus_peewee_store.runs import Run, Unreadable, code_version, code_versions, duration_of, steps_of
>>>>>>> report

STYLES = {
    defaults.SUCCESS: "green",
    defaults.FAIL: "bold red",
    defaults.PROCESSING: "cyan",
    defaults.TRIGGERED: "cyan",
    defaults.CREATED: "dim",
}
<<<<<<< HEAD
WIDE = 110  # columns that leave room for whole times
LONGEST_VALUE = 300  # characters of a value on a terminal


def runs_table(summaries: Sequence[RunSummary], width: int = UNLIMITED) -> Table:
    """Return the list of runs, for a console of this width."""
=======
UNLIMITED = 100_000  # columns, of a pipe
WIDE = 110  # columns, from which on there is room for whole times
LONGEST_VALUE = 300  # characters, of a value on a terminal


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise  # Rich would make an exit status of 1 of it.


def console(stderr: bool = False) -> Console:
    """Give the console to draw on: as wide as the terminal is, and without end if it is none.

    Args:
        stderr: Whether it is that of errors and progress.

    Returns:
        The console. It takes nothing in a text for markup.
    """
    stream = sys.stderr if stderr else sys.stdout
    is_terminal = stream.isatty()
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # for what its encoding does not have
    return _Console(stderr=stderr, markup=False, emoji=False, highlight=False, width=None if is_terminal else UNLIMITED)


def clean(text: Any) -> str:
    """Make a text safe for a terminal.

    Args:
        text: The text.

    Returns:
        The text, with the escapes of Python for characters that do not print.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in str(text)
    )


def duration(seconds: Optional[float]) -> str:
    """Write a duration in two units at most.

    Args:
        seconds: The duration.

    Returns:
        Such as `5ms`, `1.2s`, `2m 03s`, `3h 05m` or `4d 02h`; empty for None.
    """
    if seconds is None:
        return ""
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f}ms"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole // 60 % 60:02}m"
    return f"{whole // 86400}d {whole // 3600 % 24:02}h"


def size(count: int) -> str:
    """Write a number of bytes.

    Args:
        count: The number.

    Returns:
        Such as `12 kB` or `3.4 MB`.
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count / 1000:.0f} kB"


def when(time: Optional[datetime], short: bool = False) -> str:
    """Write a time in local time.

    Args:
        time: The time.
        short: As `ls` writes it, in 12 characters.

    Returns:
        The time; empty for None.
    """
    if time is None:
        return ""
    local = time.astimezone()
    if not short:
        return f"{local:%Y-%m-%d %H:%M:%S}"
    recent = abs(datetime.now().astimezone() - local) < timedelta(days=180)
    return f"{local:%b %d %H:%M}" if recent else f"{local:%b %d  %Y}"


def runs_table(summaries: Sequence[Mapping[str, Any]], width: int = UNLIMITED) -> Table:
    """Draw runs as a table.

    Args:
        summaries: What `runs.summarize` tells of them.
        width: Of the console.

    Returns:
        The table.
    """
>>>>>>> report
    is_wide = width >= WIDE
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("RUN", overflow="fold")
    table.add_column("STATUS", no_wrap=True)
    table.add_column("STARTED", no_wrap=True)
    table.add_column("TOOK", justify="right", no_wrap=True)
    table.add_column("STEPS", justify="right", no_wrap=True)
    for heading in ("TAG", "FAILED STEP") if is_wide else ():
        table.add_column(heading, overflow="fold")
    for run in summaries:
<<<<<<< HEAD
        tag, failed_step = Text(printable(run.tag or "")), Text(printable(run.failed_step or ""), "red")
        name = Text(printable(run.run_id))
=======
        tag, failed_step = Text(clean(run["tag"] or "")), Text(clean(run["failed_step"] or ""), "red")
        name = Text(clean(run["run_id"]))
>>>>>>> report
        if tag and not is_wide:
            name.append("\n  tag ", "dim").append_text(tag)
        if failed_step and not is_wide:
            name.append("\n  failed at ", "dim").append_text(failed_step)
        table.add_row(
            name,
<<<<<<< HEAD
            _status(run.status),
            format_time(run.started, short=not is_wide),
            format_duration(run.duration),
            f"{run.steps_done}/{run.steps_known}",
=======
            _status(run["status"]),
            when(run["started"], short=not is_wide),
            duration(run["duration"]),
            f"{run['steps_done']}/{run['steps_known']}",
>>>>>>> report
            *((tag, failed_step) if is_wide else ()),
        )
    return table


<<<<<<< HEAD
def run_tree(run: Run, is_full: bool = True) -> Tree:
    """Return a run as a tree of its steps and branches. Long values are shortened unless `is_full`."""
    run_log = run.run_log
    duration = duration_of(run_log.status, run.started, attempts_of(steps_of(run_log)))
    facts = {
        "started": format_time(run.started),
=======
def run_tree(run: Run, whole: bool = True) -> Tree:
    """Draw a run as a tree of its steps and branches.

    Args:
        run: The run.
        whole: Whether values are shown at any length.

    Returns:
        The tree.
    """
    run_log = run.run_log
    took = duration_of(run_log.status, run.started, steps_of(run_log))
    facts = {
        "started": when(run.started),
>>>>>>> report
        "tag": run_log.tag,
        "re-run of": run_log.original_run_id,
        "code": ", ".join(code_versions(run_log)),
    }
<<<<<<< HEAD
    lines = [Text.assemble((f"{name} ", "dim"), printable(value)) for name, value in facts.items() if value]
    tree = Tree(Text("\n").join([_label(run_log.run_id, run_log.status, duration), *lines]))
    if run_log.parameters:
        _add_values(tree.add(Text("parameters", "bold")), run_log.parameters, is_full)
    _add_steps(tree, run_log, is_full)
=======
    told = [Text.assemble((f"{name} ", "dim"), clean(value)) for name, value in facts.items() if value]
    tree = Tree(Text("\n").join([_label(run_log.run_id, run_log.status, took), *told]))
    if run_log.parameters:
        _add_values(tree.add(Text("parameters", "bold")), run_log.parameters, whole)
    _add_steps(tree, run_log, whole)
>>>>>>> report
    return tree


def step_tree(step: StepLog) -> Tree:
<<<<<<< HEAD
    """Return a step with everything that its log contains."""
=======
    """Draw a step with all that is known of it.

    Args:
        step: The step.

    Returns:
        The tree.
    """
>>>>>>> report
    tree = Tree(_step_label(step))
    facts = {"name": step.internal_name, "type": step.step_type, "message": step.message}
    for code in step.code_identities:
        if code.code_identifier:
            facts["code"] = f"{code_version(code)} {code.code_identifier_url or ''}"
    for name, value in facts.items():
        if value:
<<<<<<< HEAD
            tree.add(Text.assemble((f"{name} ", "dim"), printable(value)))
    for attempt in step.attempts:
        duration = duration_of(attempt.status, None, [attempt])
        branch = tree.add(_label(f"attempt {attempt.attempt_number}", attempt.status, duration))
        start, end = printable(attempt.start_time), printable(attempt.end_time)
        branch.add(Text.assemble(("from ", "dim"), start, (" to ", "dim"), end))
        _add_message(branch, attempt)
        if attempt.parameters:
            _add_values(branch.add(Text("parameters", "bold")), attempt.parameters, is_full=True)
    if step.user_defined_metrics:
        _add_values(tree.add(Text("metrics", "bold")), step.user_defined_metrics, is_full=True)
    for data in sorted(step.data_catalog, key=lambda data: (data.stage, data.name)):
        tree.add(Text.assemble((f"{data.stage} ", "dim"), printable(data.name), (f" sha256 {data.data_hash}", "dim")))
    _add_branches(tree, step, is_full=True)
=======
            tree.add(Text.assemble((f"{name} ", "dim"), clean(value)))
    for attempt in step.attempts:
        took = duration_of(attempt.status, None, [StepLog(name="", internal_name="", attempts=[attempt])])
        twig = tree.add(_label(f"attempt {attempt.attempt_number}", attempt.status, took))
        twig.add(Text.assemble(("from ", "dim"), clean(attempt.start_time), (" to ", "dim"), clean(attempt.end_time)))
        _add_message(twig, attempt)
        if attempt.parameters:
            _add_values(twig.add(Text("parameters", "bold")), attempt.parameters, whole=True)
    if step.user_defined_metrics:
        _add_values(tree.add(Text("metrics", "bold")), step.user_defined_metrics, whole=True)
    for data in sorted(step.data_catalog, key=lambda data: (data.stage, data.name)):
        tree.add(Text.assemble((f"{data.stage} ", "dim"), clean(data.name), (f" sha256 {data.data_hash}", "dim")))
    _add_branches(tree, step, whole=True)
>>>>>>> report
    return tree


def diff_tree(
<<<<<<< HEAD
    run_ids: Tuple[str, str], differences: Mapping[str, Mapping[str, Mapping[str, Any]]], is_full: bool = True
) -> Tree:
    """Return what differs between two runs, as `runs.diff` found it. The tree has no children if nothing differs.

    A step is left out if its two statuses and its two durations, as they are printed, are equal.
    """
    tree = Tree(_change(*map(printable, run_ids)))
    for section, pairs in differences.items():
        branch = Tree(Text(section, "bold"))
        for name, pair in pairs.items():
            a, b = (_side(section, pair.get(side), is_full) for side in ("a", "b"))
            if a != b:
                branch.add(Text.assemble((f"{printable(name)}: ", "dim")).append_text(_change(a, b)))
        if branch.children:
            tree.children.append(branch)
    return tree


def unreadable_lines(unreadable: Iterable[UnreadableRow]) -> List[str]:
    """Return a line for each row that cannot be read, with the reason."""
    return [
        printable(f"Cannot read {row.attribute_type} {row.attribute_key} of {row.run_id}: {row.reason}")
        for row in unreadable
    ]


def status_lines(run: Run) -> Dict[str, str]:
    """Return a line with the status of each step, by its name, and last that of the run, by an empty name."""
=======
    names: Tuple[str, str], differences: Mapping[str, Mapping[str, Mapping[str, Any]]], whole: bool = True
) -> Tree:
    """Draw what differs between two runs.

    Args:
        names: The ids of the two.
        differences: What `runs.diff` tells.
        whole: Whether values are shown at any length.

    Returns:
        The tree, which has no branches if nothing differs. A step that went alike and took as long, as durations are
        written, is not in it.
    """
    tree = Tree(_change(*map(clean, names)))
    for section, pairs in differences.items():
        twig = Tree(Text(section, "bold"))
        for name, pair in pairs.items():
            a, b = (_side(section, pair.get(side), whole) for side in ("a", "b"))
            if a != b:
                twig.add(Text.assemble((f"{clean(name)}: ", "dim")).append_text(_change(a, b)))
        if twig.children:
            tree.children.append(twig)
    return tree


def unreadable_lines(unreadable: Iterable[Unreadable]) -> List[str]:
    """Write which rows cannot be read, and why.

    Args:
        unreadable: The rows.

    Returns:
        A line each.
    """
    return [
        clean(f"Cannot read {each.attribute_type} {each.attribute_key} of {each.run_id}: {each.reason}")
        for each in unreadable
    ]


def state_lines(run: Run) -> Dict[str, str]:
    """Write how far each step of a run is, for a pipe to follow.

    Args:
        run: The run.

    Returns:
        A line by the name of each step, and of the run last.
    """
>>>>>>> report
    lines = {step.internal_name: _step_label(step, step.internal_name).plain for step in steps_of(run.run_log)}
    lines[""] = _label(run.run_log.run_id, run.run_log.status, None).plain
    return lines


<<<<<<< HEAD
def check_table(report: CheckReport) -> Table:
    """Return what `runs.check` found."""
    rows = ", ".join(f"{count:,} {attribute_type}" for attribute_type, count in sorted(report.rows.items()))
    lines_of = {
        "Database": [f"{report.product}, {report.database}"],
        "Table": ["lacks:", *report.missing] if report.missing else ["complete"],
        "Rows": [f"{sum(report.rows.values()):,}{f' ({rows})' if rows else ''}"],
        "Runs": [f"{report.runs:,}", *_first(f"{run_id} has no row of its own" for run_id in report.headless)],
        "Size": [decimal(report.size)],
        "Duplicates": _first(f"{count:,} duplicate rows of {run_id}" for run_id, count in report.duplicates.items()),
        "Unreadable": _first(
            f"{row.run_id}: {row.attribute_type} {row.attribute_key}: {row.reason}" for row in report.unreadable
=======
def check_table(found: Mapping[str, Any]) -> Table:
    """Draw what `upkeep.check` found.

    Args:
        found: What it found.

    Returns:
        The table.
    """
    rows = ", ".join(f"{count:,} {kind}" for kind, count in sorted(found["rows"].items()))
    facts = {
        "Database": [f"{found['product']}, {found['database']}"],
        "Table": ["complete" if not found["missing"] else "lacks:", *found["missing"]],
        "Rows": [f"{sum(found['rows'].values()):,}{f' ({rows})' if rows else ''}"],
        "Runs": [f"{found['runs']:,}", *_first(f"{run_id} has no row of its own" for run_id in found["headless"])],
        "Size": [size(found["size"])],
        "Duplicates": _first(f"{count:,} rows too many of {run}" for run, count in found["duplicates"].items()),
        "Unreadable": _first(
            f"{each['run_id']}: {each['attribute_type']} {each['attribute_key']}: {each['reason']}"
            for each in found["unreadable"]
>>>>>>> report
        ),
    }
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
<<<<<<< HEAD
    for name, lines in lines_of.items():
        table.add_row(name, Text("\n".join(map(printable, lines or ["none"]))))
    return table


def _first(lines: Iterable[str]) -> List[str]:
    listed = list(lines)
    more = [f"... and {len(listed) - LIST_LENGTH:,} more"] if len(listed) > LIST_LENGTH else []
    return listed[:LIST_LENGTH] + more


def _status(status: str) -> Text:
    return Text(printable(status), STYLES.get(status, "yellow"))


def _label(name: str, status: str, seconds: Optional[float], suffix: str = "") -> Text:
    duration = f" {format_duration(seconds)}".rstrip()
    return Text.assemble((printable(name), "bold"), " ", _status(status), (duration, "dim"), (suffix, "dim"))


def _step_label(step: StepLog, name: str = "") -> Text:
    inner = [inner_step for branch in step.branches.values() for inner_step in steps_of(branch)]
    duration = duration_of(step.status, None, attempts_of([step, *inner]))
    suffix = "" if step.step_type in ("task", "") else f" {step.step_type}"
    if len(step.attempts) > 1:
        suffix += f" {len(step.attempts)} attempts"
    if step.mock:
        suffix += " (not run again)"
    return _label(name or step.name, step.status, duration, printable(suffix))


def _add_steps(tree: Tree, log: Union[BranchLog, RunLog], is_full: bool) -> None:
    for step in log.steps.values():
        if step.step_type in fragments.TERMINAL:
            continue
        branch = tree.add(_step_label(step))
        if step.status == defaults.FAIL:
            for attempt in step.attempts:
                _add_message(branch, attempt)
        _add_values(branch, step.user_defined_metrics, is_full, "metric ")
        for stage in ("get", "put"):
            # Sorted, because magnus keeps them in no particular order.
            names = sorted(printable(data.name) for data in step.data_catalog if data.stage == stage)
            if names:
                branch.add(Text.assemble((f"{stage} ", "dim"), ", ".join(names)))
        _add_branches(branch, step, is_full)


def _add_branches(tree: Tree, step: StepLog, is_full: bool) -> None:
    for name, branch in step.branches.items():
        duration = duration_of(branch.status, None, attempts_of(steps_of(branch)))
        own_name = fragments.own_name(name, step.internal_name)
        _add_steps(tree.add(_label(own_name, branch.status, duration, " branch")), branch, is_full)
=======
    for name, lines in facts.items():
        table.add_row(name, Text("\n".join(map(clean, lines or ["none"]))))
    return table


def _first(lines: Iterable[str], count: int = 10) -> List[str]:
    listed = list(lines)
    more = [f"... and {len(listed) - count:,} more"] if len(listed) > count else []
    return listed[:count] + more


def _status(status: str) -> Text:
    return Text(clean(status), STYLES.get(status, "yellow"))


def _label(name: str, status: str, seconds: Optional[float], more: str = "") -> Text:
    return Text.assemble(
        (clean(name), "bold"), " ", _status(status), (f" {duration(seconds)}".rstrip(), "dim"), (more, "dim")
    )


def _step_label(step: StepLog, name: str = "") -> Text:
    inner = [inside for branch in step.branches.values() for inside in steps_of(branch)]
    more = "" if step.step_type in ("task", "") else f" {step.step_type}"
    if len(step.attempts) > 1:
        more += f" {len(step.attempts)} attempts"
    if step.mock:
        more += " (not run again)"
    return _label(name or step.name, step.status, duration_of(step.status, None, [step, *inner]), clean(more))


def _add_steps(tree: Tree, log: Union[BranchLog, RunLog], whole: bool) -> None:
    for step in log.steps.values():
        if step.step_type in fragments.TERMINAL:
            continue
        twig = tree.add(_step_label(step))
        if step.status == defaults.FAIL:
            for attempt in step.attempts:
                _add_message(twig, attempt)
        _add_values(twig, step.user_defined_metrics, whole, "metric ")
        for stage in ("get", "put"):
            # Sorted, for magnus has them in no order.
            names = sorted(clean(data.name) for data in step.data_catalog if data.stage == stage)
            if names:
                twig.add(Text.assemble((f"{stage} ", "dim"), ", ".join(names)))
        _add_branches(twig, step, whole)


def _add_branches(tree: Tree, step: StepLog, whole: bool) -> None:
    for name, branch in step.branches.items():
        took = duration_of(branch.status, None, steps_of(branch))
        own_name = fragments.own_name(name, step.internal_name)
        _add_steps(tree.add(_label(own_name, branch.status, took, " branch")), branch, whole)
>>>>>>> report


def _add_message(tree: Tree, attempt: StepAttempt) -> None:
    if attempt.message:
<<<<<<< HEAD
        tree.add(Text("\n".join(map(printable, attempt.message.splitlines())), "red"))


def _add_values(tree: Tree, values: Mapping[str, Any], is_full: bool, prefix: str = "") -> None:
    for name, value in values.items():
        tree.add(Text.assemble((f"{prefix}{printable(name)}: ", "dim"), (_value(value, is_full), "cyan")))


def _value(value: Any, is_full: bool) -> str:
    text = printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    if is_full or len(text) <= LONGEST_VALUE:
=======
        tree.add(Text("\n".join(map(clean, attempt.message.splitlines())), "red"))


def _add_values(tree: Tree, values: Mapping[str, Any], whole: bool, kind: str = "") -> None:
    for name, value in values.items():
        tree.add(Text.assemble((f"{kind}{clean(name)}: ", "dim"), (_value(value, whole), "cyan")))


def _value(value: Any, whole: bool) -> str:
    text = clean(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    if whole or len(text) <= LONGEST_VALUE:
>>>>>>> report
        return text
    return f"{text[:LONGEST_VALUE]}... ({len(text):,} characters)"


def _change(a: str, b: str) -> Text:
    return Text.assemble((a, "red"), (" \u2192 ", "dim"), (b, "green"))


<<<<<<< HEAD
def _side(section: str, value: Any, is_full: bool) -> str:
    if value in (None, ""):
        return "-"
    if section == "steps":
        return f"{printable(value['status'])} {format_duration(value['duration'])}".rstrip()
    return _value(value, is_full)
=======
def _side(section: str, value: Any, whole: bool) -> str:
    if value in (None, ""):
        return "-"
    if section == "steps":
        return f"{clean(value['status'])} {duration(value['duration'])}".rstrip()
    return _value(value, whole)
>>>>>>> report
