"""What the commands draw on a terminal, or write into a pipe, where nothing is cut."""

import json
import sys
from datetime import datetime, timedelta
from io import TextIOWrapper
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

from magnus import defaults
from magnus.datastore import BranchLog, RunLog, StepAttempt, StepLog
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from magnus_peewee_store import fragments
from magnus_peewee_store.runs import Run, Unreadable, code_version, code_versions, duration_of, steps_of

STYLES = {
    defaults.SUCCESS: "green",
    defaults.FAIL: "bold red",
    defaults.PROCESSING: "cyan",
    defaults.TRIGGERED: "cyan",
    defaults.CREATED: "dim",
}
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
        tag, failed_step = Text(clean(run["tag"] or "")), Text(clean(run["failed_step"] or ""), "red")
        name = Text(clean(run["run_id"]))
        if tag and not is_wide:
            name.append("\n  tag ", "dim").append_text(tag)
        if failed_step and not is_wide:
            name.append("\n  failed at ", "dim").append_text(failed_step)
        table.add_row(
            name,
            _status(run["status"]),
            when(run["started"], short=not is_wide),
            duration(run["duration"]),
            f"{run['steps_done']}/{run['steps_known']}",
            *((tag, failed_step) if is_wide else ()),
        )
    return table


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
        "tag": run_log.tag,
        "re-run of": run_log.original_run_id,
        "code": ", ".join(code_versions(run_log)),
    }
    told = [Text.assemble((f"{name} ", "dim"), clean(value)) for name, value in facts.items() if value]
    tree = Tree(Text("\n").join([_label(run_log.run_id, run_log.status, took), *told]))
    if run_log.parameters:
        _add_values(tree.add(Text("parameters", "bold")), run_log.parameters, whole)
    _add_steps(tree, run_log, whole)
    return tree


def step_tree(step: StepLog) -> Tree:
    """Draw a step with all that is known of it.

    Args:
        step: The step.

    Returns:
        The tree.
    """
    tree = Tree(_step_label(step))
    facts = {"name": step.internal_name, "type": step.step_type, "message": step.message}
    for code in step.code_identities:
        if code.code_identifier:
            facts["code"] = f"{code_version(code)} {code.code_identifier_url or ''}"
    for name, value in facts.items():
        if value:
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
    return tree


def diff_tree(
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
    lines = {step.internal_name: _step_label(step, step.internal_name).plain for step in steps_of(run.run_log)}
    lines[""] = _label(run.run_log.run_id, run.run_log.status, None).plain
    return lines


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
        ),
    }
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
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


def _add_message(tree: Tree, attempt: StepAttempt) -> None:
    if attempt.message:
        tree.add(Text("\n".join(map(clean, attempt.message.splitlines())), "red"))


def _add_values(tree: Tree, values: Mapping[str, Any], whole: bool, kind: str = "") -> None:
    for name, value in values.items():
        tree.add(Text.assemble((f"{kind}{clean(name)}: ", "dim"), (_value(value, whole), "cyan")))


def _value(value: Any, whole: bool) -> str:
    text = clean(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    if whole or len(text) <= LONGEST_VALUE:
        return text
    return f"{text[:LONGEST_VALUE]}... ({len(text):,} characters)"


def _change(a: str, b: str) -> Text:
    return Text.assemble((a, "red"), (" \u2192 ", "dim"), (b, "green"))


def _side(section: str, value: Any, whole: bool) -> str:
    if value in (None, ""):
        return "-"
    if section == "steps":
        return f"{clean(value['status'])} {duration(value['duration'])}".rstrip()
    return _value(value, whole)
