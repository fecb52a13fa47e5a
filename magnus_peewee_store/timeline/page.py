"""Write a timeline as an HTML page: the chart, and a table for readers who cannot see it or point at it."""

import base64
import hashlib
import xml.etree.ElementTree as ET
from functools import lru_cache
from typing import List, Mapping, Optional, Tuple, Union

from magnus.datastore import RunLog

from magnus_peewee_store.logs import RunFacts
from magnus_peewee_store.timeline.details import as_facts, shorten
from magnus_peewee_store.timeline.elements import add, element, set_attributes, to_text
from magnus_peewee_store.timeline.layout import ChartRow, Mark, Scale, count_steps, lay_out
from magnus_peewee_store.timeline.overview import draw_facts, draw_failures, draw_results
from magnus_peewee_store.timeline.styles import FONT, custom_properties, read_file, timeline_css
from magnus_peewee_store.timeline.svg import (
    AXIS_HEIGHT,
    LABEL_WIDTH,
    draw_axis,
    draw_bars,
    draw_hatches,
    draw_labels,
    table_row_id,
)
from magnus_peewee_store.times import format_utc_offset

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
    main.append(draw_facts(facts, rows[0], resume_command))
    main.extend(draw_failures(facts, outputs or {}))
    main.extend(draw_results(facts, index_url))
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
