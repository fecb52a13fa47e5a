"""What a page shows of a run above its timeline: its facts, errors, parameters, metrics with curves, and data."""

import itertools
import json
import xml.etree.ElementTree as ET
from typing import Any, Iterable, Mapping, Optional, Tuple

from magnus import defaults

from magnus_peewee_store.logs import RunFacts, results_of, steps_of
from magnus_peewee_store.metrics import Series, is_finite, last_value
from magnus_peewee_store.timeline.details import origin_details, run_details, shorten
from magnus_peewee_store.timeline.elements import add, draw_curve, element, format_number, set_attributes
from magnus_peewee_store.timeline.layout import ChartRow
from magnus_peewee_store.times import format_time

MOST_VALUES = 500  # parameters, metrics or files
MOST_CURVES = 30
LONGEST_VALUE = 200  # characters
HASH_LENGTH = 12  # digits


def has_curve(metric: Any) -> bool:
    """Return True for a series with at least two numbers."""
    if not isinstance(metric, Series):
        return False
    numbers = (point for point in metric.points if is_finite(point.value))
    return len([*itertools.islice(numbers, 2)]) == 2


def draw_facts(run: RunFacts, row: ChartRow, resume_command: str) -> ET.Element:
    """Draw the id, the facts, the notes, and the command that resumes a run.

    Args:
        row: The row of the run in the timeline.
        resume_command: The command; empty for none.
    """
    header = element("header")
    add(add(header, "h1", "Run "), "bdi", run.run_log.run_id)
    facts = add(header, "dl", class_="facts")
    for name, text in {**run_details(run, row.style, row.span), **origin_details(run)}.items():
        fact = add(facts, "div")
        add(fact, "dt", name)
        add(add(fact, "dd", class_=row.style.colour if name == "Status" else "plain"), "bdi", text)
    for note in run.notes:
        who = " ".join(filter(None, [note.user, format_time(note.time)]))
        paragraph = add(header, "p", class_="remark")
        add(paragraph, "bdi", note.text)
        add(paragraph, "span", who, class_="secondary")
    if resume_command:
        add(header, "p", "Resume it with:", class_="note")
        add(header, "pre", resume_command)
    return header


def draw_failures(run: RunFacts, outputs: Mapping[str, str]) -> ET.Element:
    """Draw the message of each failed step, and the end of its output where it is known.

    Args:
        outputs: The end of the output of steps, by their internal name.
    """
    box = element("div")
    for step in steps_of(run.complete_log):
        messages = [attempt.message for attempt in step.attempts[-1:] if attempt.message]
        texts = [*messages, *filter(None, [outputs.get(step.internal_name, "")])]
        if step.status != defaults.FAIL or not texts:
            continue
        section = add(box, "section", class_="failure")
        add(add(section, "h2", "✗ Failed: ", class_="fail"), "bdi", step.internal_name)
        for text in texts:
            add(section, "pre", text)
    return box


def draw_results(run: RunFacts, index_url: Optional[str]) -> ET.Element:
    """Draw the final parameters, the last values of metrics, the data and the curves.

    Args:
        index_url: The address of the page that lists all runs, where a hash leads to the runs that used the content.
    """
    box = element("div")
    lists = add(box, "div", class_="results")
    parameters, metrics, results = run.run_log.parameters, run.metrics, {*results_of(run.run_log)}
    marked = ((name, _code(value), "set by a step" if name in results else "") for name, value in parameters.items())
    _add_list(lists, "Parameters", marked, len(parameters))
    _add_list(lists, "Metrics", ((name, *_metric_text(each)) for name, each in metrics.items()), len(metrics))
    files = {
        (data.stage, data.name, data.data_hash): None
        for step in steps_of(run.complete_log)
        for data in step.data_catalog
    }
    data = _add_list(lists, "Data", ((name, stage, "") for stage, name, _ in files), len(files))
    for (_, _, data_hash), value in zip(files, data.iter("dd") if data is not None else ()):
        tail = add(value, "span", " ")
        if not data_hash:
            continue
        text = shorten_hash(data_hash)
        target = {"href": f"{index_url}#data={text}"} if index_url else {}
        set_attributes(add(tail, "a" if index_url else "code", text, **target), title=f"SHA-256 {data_hash}")
    curves = [(name, each) for name, each in metrics.items() if has_curve(each)]
    if curves:
        add(box, "h2", "Curves")
        figures = add(box, "div", class_="curves")
        for name, metric in curves[:MOST_CURVES]:
            figure = add(figures, "figure")
            add(add(figure, "figcaption", title=name), "bdi", shorten_front(name, 44))
            figure.append(draw_curve(metric.points))
    if len(curves) > MOST_CURVES:
        add(box, "p", f"{len(curves) - MOST_CURVES:,} more curves are left out.", class_="note")
    return box


def shorten_front(name: str, limit: int) -> str:
    """Shorten a name at the front, since names of metrics begin alike and differ at the end."""
    return name if len(name) <= limit else f"…{name[1 - limit :]}"


def shorten_hash(data_hash: str) -> str:
    """Return the first digits of a hash, which tell contents apart."""
    return data_hash[:HASH_LENGTH]


def _add_list(
    parent: ET.Element, heading: str, rows: Iterable[Tuple[str, str, str]], count: int
) -> Optional[ET.Element]:
    """Add a list of names, values and remarks. Return None if there are none."""
    if not count:
        return None
    section = add(parent, "section")
    add(section, "h2", heading)
    values = add(section, "dl", class_="values")
    for name, value, remark in itertools.islice(rows, MOST_VALUES):
        # `dir` isolates texts as an element `bdi` does, without an element for each: most of a page is such lists.
        short = shorten_front(name, 60)
        add(values, "dt", short, dir="auto", **({"title": name} if short != name else {}))
        cell = add(values, "dd", value, dir="auto")
        if remark:
            add(cell, "span", remark, class_="secondary")
    if count > MOST_VALUES:
        add(section, "p", f"{count - MOST_VALUES:,} more are left out.", class_="note")
    return values


def _code(value: Any) -> str:
    return shorten(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), LONGEST_VALUE)


def _metric_text(metric: Any) -> Tuple[str, str]:
    """Return the last value of a metric, and what is to be known of its series."""
    last = last_value(metric)
    text = format_number(last) if isinstance(last, float) else _code(last)
    if not isinstance(metric, Series):
        return text, ""
    ends = {"min": metric.min, "max": metric.max}
    texts = [f"{name} {format_number(end.value)} at {end.iteration:,}" for name, end in ends.items() if end]
    return text, "; ".join([f"iteration {metric.last.iteration:,}", *([", ".join(texts)] if texts else [])])
