"""Write the page of a run: facts, errors and results, the chart, and a table for readers who cannot see it."""

import base64
import hashlib
import itertools
import json
import xml.etree.ElementTree as ET
from functools import lru_cache
from typing import Any, Iterable, List, Mapping, Optional, Tuple, Union

from magnus import defaults
from magnus.datastore import RunLog

from magnus_peewee_store.logs import RunFacts, code_versions, results_of, steps_of
from magnus_peewee_store.metrics import Series, last_value
from magnus_peewee_store.timeline.layout import (
    ChartRow,
    Mark,
    Scale,
    as_facts,
    count_steps,
    lay_out,
    run_details,
    shorten,
)
from magnus_peewee_store.timeline.styles import FONT, custom_properties, read_file, timeline_css
from magnus_peewee_store.timeline.svg import (
    AXIS_HEIGHT,
    LABEL_WIDTH,
    add,
    draw_axis,
    draw_bars,
    draw_curve,
    draw_hatches,
    draw_labels,
    element,
    format_number,
    set_attributes,
    table_row_id,
    to_text,
)
from magnus_peewee_store.times import format_time, format_utc_offset

MOST_VALUES = 500  # parameters, metrics or files
MOST_CURVES = 30
LONGEST_VALUE = 200  # characters
HASH_LENGTH = 12  # digits
ROW_GROUP = 5  # rows of the chart that no page break separates in print
TIME_COLUMNS = ("Start", "End", "Duration")
COLUMNS = ("Step", "Status", *TIME_COLUMNS, "Details")
NOTE = (
    "The axis starts at the first recorded time. magnus records the times of an attempt when it ends, "
    "in the local time of the machine that ran it: {zone}."
)


def to_html(
    run: Union[RunFacts, RunLog],
    index_url: Optional[str] = None,
    resume_command: str = "",
    outputs: Optional[Mapping[str, str]] = None,
) -> str:
    """Draw a run as an HTML page: its facts, results and curves, the timeline, and a table of all attempts.

    Args:
        run: The run, as `runs.read_run` returns it, or only its run log with its steps and branches.
        index_url: The address of a page that lists all runs, to link to.
        resume_command: The command that resumes the run.
        outputs: The end of the output of failed steps, by their internal name.

    Returns:
        The text of the file.

    Example:
        >>> from magnus.datastore import RunLog
        >>> to_html(RunLog(run_id="my-run"))[:15]
        '<!DOCTYPE html>'
    """
    facts = as_facts(run)
    run_log = facts.run_log
    rows, scale = lay_out(facts)
    page = element("html", lang="en")
    page.append(_head(f"{rows[0].style.sign} Run {shorten(run_log.run_id, 80)}"))
    body = add(page, "body")
    add(body, "a", "Skip to the table", class_="skip", href="#steps")
    body.append(draw_hatches())
    main = add(body, "main")
    if index_url:
        add(add(main, "nav"), "a", "← All runs", href=index_url)
    main.append(_draw_facts(facts, rows[0], resume_command))
    main.extend(_draw_failures(facts, outputs or {}))
    main.extend(_draw_results(facts, index_url))
    add(main, "h2", "Timeline")
    counts = add(main, "ul", class_="counts")
    for colour, text in count_steps(rows):
        add(counts, "li", text, class_=colour)
    main.append(_chart(rows, scale))
    add(main, "p", NOTE.format(zone=format_utc_offset(facts.utc_offset)), class_="note")
    add(main, "h2", "Steps", id="steps")
    main.append(_table(rows))
    return f"<!DOCTYPE html>\n{to_text(page)}"


@lru_cache(maxsize=None)
def _stylesheet() -> Tuple[str, str]:
    """Return the stylesheet of every page, and its hash."""
    properties = custom_properties({"font": FONT, "label-width": f"{LABEL_WIDTH}px"})
    css = timeline_css() + properties + read_file("base.css") + read_file("page.css")
    return css, base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()


def _head(title: str) -> ET.Element:
    css, css_hash = _stylesheet()
    head = element("head")
    add(head, "meta", charset="utf-8")
    policy = f"default-src 'none'; style-src 'sha256-{css_hash}'; img-src data:"
    add(head, "meta", http_equiv="Content-Security-Policy", content=policy)
    add(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    add(head, "title", title)
    add(head, "link", rel="icon", href="data:,")  # Otherwise a browser requests /favicon.ico.
    add(head, "style", css)
    return head


def _chart(rows: List[ChartRow], scale: Scale) -> ET.Element:
    chart = element("div", class_="chart")
    axis = add(add(chart, "div", class_="axis"), "div", class_="columns")
    axis.extend([element("svg", width=LABEL_WIDTH, height=AXIS_HEIGHT), draw_axis(scale)])
    for first in range(0, len(rows), ROW_GROUP):
        group = rows[first : first + ROW_GROUP]
        columns = add(add(chart, "div", class_="row-group"), "div", class_="columns")
        columns.extend([draw_labels(group, is_page=True), draw_bars(group, scale, first)])
    return chart


def _table(rows: List[ChartRow]) -> ET.Element:
    table = element("table")
    headings = add(add(table, "thead"), "tr")
    for name in COLUMNS:
        add(headings, "th", name, scope="col")
    body = add(table, "tbody")
    for number, row in enumerate(rows):
        for index, mark in enumerate(row.marks):
            body.append(set_attributes(_table_row(row, mark), id=table_row_id(number, index)))
    return table


def _table_row(row: ChartRow, mark: Mark) -> ET.Element:
    cells = element("tr")
    heading = add(cells, "th", scope="row")
    add(heading, "bdi", row.label)
    if row.name != row.label:
        add(add(heading, "span", class_="secondary"), "bdi", row.name)
    status = add(cells, "td", f"{mark.style.sign} {mark.style.word}", class_=mark.style.colour, data_label="Status:")
    if row.attempt_count > 1 and "Attempt" in mark.details:
        add(status, "span", f"attempt {mark.details['Attempt']}", class_="secondary")
    for name in TIME_COLUMNS:
        add(cells, "td", mark.details.get(name, ""), data_label=f"{name}:")
    details = add(cells, "td")
    for name, text in mark.details.items():
        if text and name not in ("Attempt", *TIME_COLUMNS):
            add(details, "div", f"{name}: {text}")
    return cells


def _draw_facts(run: RunFacts, row: ChartRow, resume_command: str) -> ET.Element:
    """Draw the id, the facts, the notes, and the command that resumes a run, if it is not empty."""
    header = element("header")
    add(add(header, "h1", "Run "), "bdi", run.run_log.run_id)
    facts = add(header, "dl", class_="facts")
    origin = {
        "User": run.origin.user,
        "Host": run.origin.host,
        "Project": run.project,
        "Pipeline": run.pipeline,
        "Code": ", ".join(code_versions(run.complete_log)),
    }
    known_origin = {name: text for name, text in origin.items() if text}
    for name, text in {**run_details(run, row), **known_origin}.items():
        fact = add(facts, "div")
        add(fact, "dt", name)
        add(add(fact, "dd", class_=row.style.colour if name == "Status" else "plain"), "bdi", text)
    for note in run.notes:
        who = " ".join(filter(None, [note.user, format_time(note.time)]))
        paragraph = add(header, "p", class_="remark")
        add(paragraph, "bdi", note.text)
        add(paragraph, "span", who, class_="secondary")
    if resume_command:
        add(header, "p", f"{run.resume_label}:", class_="note")
        add(header, "pre", resume_command)
    return header


def _draw_failures(run: RunFacts, outputs: Mapping[str, str]) -> ET.Element:
    """Draw the message of each failed step, and the end of its output where it is known."""
    box = element("div")
    for step in steps_of(run.complete_log):
        messages = [attempt.message for attempt in step.attempts[-1:]]
        texts = [*filter(None, [*messages, outputs.get(step.internal_name)])]
        if step.status != defaults.FAIL or not texts:
            continue
        section = add(box, "section", class_="failure")
        add(add(section, "h2", "✗ Failed: ", class_="fail"), "bdi", step.internal_name)
        for text in texts:
            add(section, "pre", text)
    return box


def _draw_results(run: RunFacts, index_url: Optional[str]) -> ET.Element:
    """Draw the final parameters, the last values of metrics, the data and the curves.

    On the page of all runs, at `index_url`, a hash leads to the runs that used the content.
    """
    box = element("div")
    lists = add(box, "div", class_="results")
    parameters, metrics, results = run.run_log.parameters, run.metrics, {*results_of(run.run_log)}
    marked = ((name, _code(value), "set by a step" if name in results else "") for name, value in parameters.items())
    _add_list(lists, "Parameters", marked, len(parameters))
    _add_list(lists, "Metrics", ((name, *_metric_text(each)) for name, each in metrics.items()), len(metrics))
    catalog = (data for step in steps_of(run.complete_log) for data in step.data_catalog)
    files = dict.fromkeys((data.stage, data.name, data.data_hash) for data in catalog)
    data = _add_list(lists, "Data", ((name, stage, "") for stage, name, _ in files), len(files))
    for (_, _, data_hash), value in zip(files, data.iter("dd") if data is not None else ()):
        tail = add(value, "span", " ")
        if not data_hash:
            continue
        text = shorten_hash(data_hash)
        target = {"href": f"{index_url}#data={text}"} if index_url else {}
        set_attributes(add(tail, "a" if index_url else "code", text, **target), title=f"SHA-256 {data_hash}")
    if run.curves:
        add(box, "h2", "Curves")
        figures = add(box, "div", class_="curves")
        for name, points in itertools.islice(run.curves.items(), MOST_CURVES):
            figure = add(figures, "figure")
            add(add(figure, "figcaption", title=name), "bdi", shorten_front(name, 44))
            figure.append(draw_curve(points))
    if len(run.curves) > MOST_CURVES:
        add(box, "p", f"{len(run.curves) - MOST_CURVES:,} more curves are left out.", class_="note")
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
    ends = (("min", metric.min), ("max", metric.max))
    bounds = ", ".join(f"{name} {format_number(end.value)} at {end.iteration:,}" for name, end in ends if end)
    return text, "; ".join(filter(None, [f"iteration {metric.last.iteration:,}", bounds]))
