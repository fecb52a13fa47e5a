"""A run log as a picture: a bar an attempt over time, as SVG or as a page of HTML. Pure: no database, no I/O.

Neither needs a script, a font or anything from elsewhere. Colours stand in attributes as well as in the style sheet,
for viewers that heed none.
"""

import base64
import hashlib
import itertools
import re
import reprlib
import xml.etree.ElementTree as ET
from collections import Counter
from datetime import datetime, timezone
from typing import Any, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Tuple

from magnus import defaults
from magnus.datastore import RunLog, StepAttempt, StepLog

from magnus_peewee_store.fragments import TERMINAL, own_name

LIGHT = {
    "paper": "#ffffff",
    "text": "#1b2733",
    "muted": "#56626f",
    "success": "#0a7055",
    "fail": "#c22f0c",
    "running": "#1d63c4",
    "waiting": "#586270",
    "skipped": "#7a4fb5",
}
DARK = {
    "paper": "#10161d",
    "text": "#e8edf2",
    "muted": "#a3afbb",
    "success": "#35b88f",
    "fail": "#ff7a55",
    "running": "#6aa8ff",
    "waiting": "#8f9aa6",
    "skipped": "#b794f0",
}

WIDTH, LABELS, ROW, AXIS = 1000, 260, 30, 24  # pixels
OPEN = 88.0  # percent of the width where bars of what is running end; the rest has room for durations
DEEPEST_SHADE = 0.1  # how much of the text's colour is mixed into the ground of the deepest branches
SHEET = 5  # rows that print keeps on one page
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif"


def _variables(palette: Mapping[str, str]) -> str:
    return ":root{" + "".join(f"--{name}:{colour};" for name, colour in palette.items()) + "}"


SVG_CSS = f"""
{_variables(LIGHT)}
@media screen and (prefers-color-scheme:dark){{{_variables(DARK)}}}
{"".join(f".{name}{{fill:var(--{name});color:var(--{name})}}" for name in LIGHT)}
.line{{stroke:var(--muted)}}
.mark{{outline:none}} .mark:hover rect,.mark:focus-visible rect{{stroke:var(--text);stroke-width:2}}
"""

HTML_CSS = """
:root{color-scheme:light dark;--line:color-mix(in srgb,var(--muted) 35%,transparent)} *{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--text);font:15px/1.5 FONT;overflow-wrap:anywhere}
main{max-width:1500px;margin:auto;padding:20px 24px} a{color:var(--running)}
h1{font-size:22px;line-height:1.3;margin:0 0 12px} h2{font-size:17px;margin:28px 0 8px}
dl,.counts{display:flex;flex-wrap:wrap;gap:6px 28px;margin:0 0 12px;padding:0;list-style:none}
dt,.path,.note,thead th{color:var(--muted);font-size:12px;font-weight:400} .path{display:block;font-size:.85em}
.counts{gap:6px 18px;font-weight:600}
.skip{position:absolute;left:-9999px} .skip:focus{left:8px;top:8px;padding:4px 8px;background:var(--paper)}
svg{display:block;width:100%} .on-phone{display:none} .defs{position:absolute;width:0;height:0}
.chart{display:table;width:100%} .sheet{display:table-row;break-inside:avoid}
.axis{display:table-header-group;position:sticky;top:0;background:var(--paper)}
.lanes{display:grid;grid-template-columns:LABELSpx 1fr}
table{width:100%;table-layout:fixed;border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums}
dd{margin:0} th,td{text-align:left;vertical-align:top;padding:6px 14px 6px 0;border-bottom:1px solid var(--line)}
thead th{width:13%;overflow-wrap:normal} thead th:first-child{width:23%} thead th:last-child{width:auto}
td div{white-space:pre-wrap}
tr{scroll-margin-top:40px;break-inside:avoid} tr:target{background:color-mix(in srgb,var(--running) 18%,transparent)}
@media screen and (max-width:720px){
main{padding:14px} .lanes{grid-template-columns:1fr} .lanes svg{grid-area:1/1} .labels text{transform:translateY(-7px)}
.axis svg:first-child,.labels .band{display:none} .bars{pointer-events:none} .mark{pointer-events:auto}
.mark rect{transform:translateY(9px);height:10px} .mark .spine{transform:translateY(11px);height:4px}
.beside{display:none} .on-phone{display:block;fill:var(--muted);font-size:12px}
thead{position:absolute;left:-9999px} table,tbody,tr,th,td{display:block;border:0;padding:0} td:empty{display:none}
tr{padding:10px 0;border-bottom:1px solid var(--line)}
td[data-label]::before{content:attr(data-label) " ";color:var(--muted);font-size:12px}}
@media print{@page{margin:12mm} main{padding:0;max-width:none} .skip{display:none} table{font-size:11px}
.axis{position:static;break-inside:avoid} h2{break-after:avoid} svg{overflow:hidden}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
""".replace("FONT", FONT).replace("LABELS", str(LABELS))

NOTE = (
    "The axis counts from the first start that is recorded. Times are as magnus recorded them when an attempt ended: "
    "by the clock of the machine that ran it, in that machine's time zone."
)


class _Look(NamedTuple):
    """How a status is told: in a colour of the palettes, by a sign, and in a word."""

    colour: str
    sign: str
    word: str


LOOKS = {
    defaults.SUCCESS: _Look("success", "✓", "succeeded"),
    defaults.FAIL: _Look("fail", "✗", "failed"),
    defaults.PROCESSING: _Look("running", "►", "running"),
    defaults.TRIGGERED: _Look("running", "►", "triggered"),
    defaults.CREATED: _Look("waiting", "○", "created"),
}
SKIPPED = _Look("skipped", "↷", "skipped")
HATCHES = {"fail": (45, 2.5), "running": (-45, 5)}  # the angle and width of stripes: they tell bars apart in print

Span = Tuple[datetime, datetime]


class _Row(NamedTuple):
    """A row of the picture."""

    kind: str  # "run", "branch", "composite" (a step with branches) or "step"
    depth: int
    label: str
    name: str
    look: _Look
    span: Optional[Span]  # from the first time recorded of it, or of what is in it, to the last
    after: Optional[datetime] = None  # the last time recorded of what ran before it
    attempts: List[StepAttempt] = []
    metrics: Dict[str, Any] = {}


class _Mark(NamedTuple):
    """What is drawn of a row, and told of it: one an attempt, and one of what has no attempts, or not yet."""

    kind: str  # "bar", an attempt; "spine", over all that is within; "open", running; or nothing to draw
    look: _Look
    start: Optional[datetime]
    end: Optional[datetime]
    facts: Dict[str, str]


class _Scale:
    """Where a time stands in the picture, in percent of its width."""

    def __init__(self, span: Optional[Span], is_open: bool) -> None:
        self.has_times = span is not None
        self.start, end = span or (datetime.min, datetime.min)
        self.seconds = max((end - self.start).total_seconds(), 0.001)
        self.width = self.seconds * (1.05 if is_open else 1) * 100 / OPEN

    def extent(self, start: datetime, end: datetime) -> Tuple[float, float]:
        """Where a bar begins and ends: never so narrow that it cannot be seen."""
        left, right = (100 * (time - self.start).total_seconds() / self.width for time in (start, end))
        left = min(left, OPEN - 0.4)
        return left, max(right, left + 0.4)

    def ticks(self) -> Iterator[Tuple[float, str]]:
        """Some five round numbers of seconds, minutes, hours or days."""
        decimal = [base * 10.0**power for power in range(-4, 1) for base in (1, 2, 5)]
        clock = [10.0, 15.0, 30.0, *(n * 60.0 for n in (1, 2, 5, 10, 15, 30)), *(n * 3600.0 for n in (1, 2, 3, 6, 12))]
        days = [86400.0 * base * 10.0**power for power in range(8) for base in (1, 2, 5)]
        every = next(step for step in decimal + clock + days if step * 6 >= self.width)
        for number in range(int(self.width / every) + 1 if self.has_times else 0):
            yield 100 * number * every / self.width, _duration(number * every)


def to_svg(run_log: RunLog) -> str:
    """Draw a run as a picture that stands alone.

    Args:
        run_log: The run log, with its steps and branches.

    Returns:
        The text of an SVG file.
    """
    rows, scale = _laid_out(run_log)
    height = 92 + AXIS + ROW * len(rows) + 12
    svg = ET.Element("svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {height}")
    _set(svg, width=WIDTH, height=height, font_family=FONT)
    _set(svg, role="group", aria_label=f"Timeline of run {run_log.run_id}")
    _add(svg, "style", SVG_CSS)
    svg.append(_hatches())
    _add(svg, "rect", colour="paper", width="100%", height="100%")
    _add(svg, "text", f"Run {_short(run_log.run_id, 80)}", colour="text", x=12, y=30, font_size=18, font_weight="bold")
    facts = " · ".join(f"{name}: {_short(value, 40)}" for name, value in _facts(run_log, rows[0]))
    _add(svg, "text", facts, colour="text", x=12, y=54, font_size=13)
    counts = _add(svg, "text", colour="text", x=12, y=76, font_size=13, font_weight="bold")
    for colour, text in _counts(rows):
        _add(counts, "tspan", f"{text}\u2003", colour=colour)
    svg.append(_set(_axis(scale), x=LABELS, y=92))
    svg.append(_set(_labels(rows), y=92 + AXIS))
    svg.append(_set(_bars(rows, scale), x=LABELS, y=92 + AXIS))
    return ET.tostring(svg, encoding="unicode")


def to_html(run_log: RunLog) -> str:
    """Draw a run as a page, with the picture and, for those who cannot hover over it or see it, a table.

    Args:
        run_log: The run log, with its steps and branches.

    Returns:
        The text of an HTML file.
    """
    rows, scale = _laid_out(run_log)
    css = SVG_CSS + HTML_CSS
    css_hash = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    page = ET.Element("html", lang="en")
    head = _add(page, "head")
    _add(head, "meta", charset="utf-8")
    policy = f"default-src 'none'; style-src 'sha256-{css_hash}'; img-src data:"
    _add(head, "meta", http_equiv="Content-Security-Policy", content=policy)
    _add(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    _add(head, "title", f"{rows[0].look.sign} Run {_short(run_log.run_id, 80)}")
    _add(head, "link", rel="icon", href="data:,")  # else a browser asks the server for one
    _add(head, "style", css)
    body = _add(page, "body")
    _add(body, "a", "Skip to the table", class_="skip", href="#steps")
    body.append(_hatches())
    main = _add(body, "main")
    header = _add(main, "header")
    _add(_add(header, "h1", "Run "), "bdi", run_log.run_id)
    facts = _add(header, "dl")
    for name, value in _facts(run_log, rows[0]):
        fact = _add(facts, "div")
        _add(fact, "dt", name)
        _add(_add(fact, "dd"), "bdi", value)
    counts = _add(header, "ul", class_="counts")
    for colour, text in _counts(rows):
        _add(counts, "li", text, class_=colour)
    chart = _add(main, "div", class_="chart")
    axis = _add(_add(chart, "div", class_="axis"), "div", class_="lanes")
    axis.extend([_set(ET.Element("svg"), width=LABELS, height=AXIS), _axis(scale)])
    for first in range(0, len(rows), SHEET):
        lanes = _add(_add(chart, "div", class_="sheet"), "div", class_="lanes")
        sheet = rows[first : first + SHEET]
        lanes.extend([_labels(sheet, is_page=True), _bars(sheet, scale, first)])
    _add(main, "p", NOTE, class_="note")
    _add(main, "h2", "Steps", id="steps")
    _table(main, rows)
    return "<!DOCTYPE html>\n" + ET.tostring(page, encoding="unicode", method="html")


def _laid_out(run_log: RunLog) -> Tuple[List[_Row], _Scale]:
    inner = _rows(run_log.steps, 0, None)
    run = _Row("run", 0, "whole run", run_log.run_id, _look(run_log.status), _span(row.span for row in inner))
    rows = [run, *inner]
    return rows, _Scale(run.span, is_open=any(row.look.colour == "running" for row in rows))


def _rows(steps: Mapping[str, StepLog], depth: int, after: Optional[datetime]) -> List[_Row]:
    """Lay out the steps of a run or branch, each before what is in it, without the nodes that only end it."""
    rows: List[_Row] = []
    for step in steps.values():
        if step.step_type in TERMINAL:
            continue
        inner: List[_Row] = []
        for name, branch in step.branches.items():
            below = _rows(branch.steps, depth + 2, after)
            label = own_name(name, step.internal_name)
            span = _span(row.span for row in below)
            inner += [_Row("branch", depth + 1, label, name, _look(branch.status), span, after), *below]
        span = _span([*map(_attempt_span, step.attempts), *(row.span for row in inner)])
        look = SKIPPED if step.mock and not step.attempts else _look(step.status)
        kind = "composite" if step.branches else "step"
        own = (step.name, step.internal_name, look, span, after, step.attempts, step.user_defined_metrics)
        rows += [_Row(kind, depth, *own), *inner]
        after = max(filter(None, (after, span and span[1])), default=None)
    return rows


def _marks(row: _Row) -> Iterator[_Mark]:
    has_branches, is_running = row.kind != "step", row.look.colour == "running"
    for number, attempt in enumerate(row.attempts, start=1):
        start, end = _time(attempt.start_time), _time(attempt.end_time)
        look = _look(attempt.status)
        facts = {
            "Attempt": f"{attempt.attempt_number or number} of {len(row.attempts)}",
            "Start": _told(attempt.start_time),
            "End": _told(attempt.end_time),
            "Duration": _between(start, end),
            "Error" if look.colour == "fail" else "Message": _short(attempt.message, 1000),
            "Metrics": _pairs(row.metrics) if number == len(row.attempts) else "",
            "Parameters": _pairs(attempt.parameters),
        }
        yield _Mark("bar", look, start, end, facts)
        is_running = is_running and look.colour != "running"
    if is_running or not row.attempts:
        over = row.span if has_branches else None
        kind = "open" if is_running and not has_branches else "spine" if is_running or over else ""
        facts = {"Start": f"after {_shown(row.after)}"} if is_running and row.after else {}
        if over:
            ended = "" if is_running else _shown(over[1])
            facts = {"Start": _shown(over[0]), "End": ended, "Duration": _between(*over) + " so far" * is_running}
        start, end = over or (row.after, None)
        yield _Mark(kind, row.look, start, end, facts)


def _labels(rows: List[_Row], is_page: bool = False) -> ET.Element:
    """Draw the tree of names; on a page also, for narrow screens, what stands beside the bars on wide ones."""
    labels = _set(ET.Element("svg"), class_="labels", width=LABELS, height=ROW * len(rows), font_size=13)
    _bands(labels, rows)
    for number, row in enumerate(rows):
        *ancestors, x = (12 + 14 * depth for depth in range(min(row.depth, 10) + 1))
        top = number * ROW
        for guide in ancestors:
            line = _add(labels, "path", class_="line", d=f"M{guide + 5} {top}v{ROW}", stroke=LIGHT["muted"])
            _set(line, stroke_opacity=0.4)
        weight = "normal" if row.kind == "step" else "bold"
        _add(labels, "text", row.look.sign, colour=row.look.colour, x=x, y=top + 20, font_weight="bold")
        text = _short(row.label, (LABELS - x - 40) // 8) + (
            f" \u00d7{len(row.attempts)}" if len(row.attempts) > 1 else ""
        )
        label = _add(labels, "text", text, colour="text", x=x + 16, y=top + 20, font_weight=weight)
        _add(label, "title", row.name)
        if is_page:
            _add(labels, "text", _took(row), class_="text on-phone", x="100%", y=top + 20, text_anchor="end")
    return labels


def _bars(rows: List[_Row], scale: _Scale, first: Optional[int] = None) -> ET.Element:
    """Draw what rows did over time; where the first one's number is given, each mark leads to its row of a table."""
    bars = _plot(ROW * len(rows), class_="bars")
    _bands(bars, rows)
    for percent, _ in scale.ticks():
        line = _add(bars, "line", class_="line", x1=_at(percent), x2=_at(percent), y2="100%")
        _set(line, stroke=LIGHT["muted"], stroke_opacity=0.25)
    for number, row in enumerate(rows):
        reach = 0.0
        for index, mark in enumerate(_marks(row)):
            if mark.kind:
                start = mark.start or mark.end or row.after or scale.start
                left, right = scale.extent(start, mark.end or start)
                right = OPEN if mark.look.colour == "running" else right
                group = _add(bars, "g" if first is None else "a", class_=f"mark {mark.kind}", colour=mark.look.colour)
                if first is None:
                    _set(group, tabindex=0, role="img", color=LIGHT[mark.look.colour])
                else:
                    _set(group, href=f"#row-{first + number}-{index}", color=LIGHT[mark.look.colour])
                _draw(group, row, mark, left, right, number * ROW)
                reach = max(reach, right)
        beside = _add(bars, "text", _took(row), class_="text beside", fill=LIGHT["text"], font_size=12)
        _set(beside, x=_at(reach), dx=6, y=number * ROW + 20)
    return bars


def _bands(parent: ET.Element, rows: List[_Row]) -> None:
    for number, row in enumerate(rows):
        band = _add(parent, "rect", class_="band", colour="text", y=number * ROW, width="100%", height=ROW)
        _set(band, fill_opacity=f"{min(0.02 * row.depth, DEEPEST_SHADE):.2f}")


def _draw(group: ET.Element, row: _Row, mark: _Mark, left: float, right: float, top: int) -> None:
    facts = [f"{name}: {_short(value, 300)}" for name, value in mark.facts.items() if value]
    _add(group, "title", "\n".join([row.name, f"{mark.look.sign} {mark.look.word}", *facts]))
    colour = mark.look.colour
    bar = _add(group, "rect", x=_at(left), width=_at(right - left), y=top + 8, height=14, rx=2, stroke="currentColor")
    if mark.kind == "spine":
        _set(bar, class_="spine", height=4, rx=0, stroke="none")
        for x, shift in ((left, 0), (right, -2)):
            _add(group, "rect", x=_at(x), width=2, y=top + 8, height=12, transform=f"translate({shift})")
    elif colour in HATCHES:
        _set(bar, fill=f"url(#hatch-{colour})")


def _axis(scale: _Scale) -> ET.Element:
    axis = _plot(AXIS, font_size=12, aria_hidden="true")
    for percent, text in scale.ticks():
        anchor = "start" if percent == 0 else "middle" if percent < 94 else "end"
        _add(axis, "text", text, colour="muted", x=_at(percent), y=16, text_anchor=anchor)
    return axis


def _plot(height: int, **attributes: Any) -> ET.Element:
    """The part of a drawing that has time across it: every x is in percent, so a page may make it wider or narrower."""
    return _set(ET.Element("svg"), width=WIDTH - LABELS, height=height, **attributes)


def _hatches() -> ET.Element:
    hatches = _set(ET.Element("svg"), class_="defs", width=0, height=0, aria_hidden="true")
    for colour, (angle, width) in HATCHES.items():
        hatch = _add(hatches, "pattern", id=f"hatch-{colour}", width=8, height=8, patternUnits="userSpaceOnUse")
        _set(hatch, patternTransform=f"rotate({angle})")
        _add(hatch, "rect", colour=colour, width=8, height=8)
        _add(hatch, "rect", colour="paper", width=width, height=8, fill_opacity=0.6)
    return hatches


def _table(parent: ET.Element, rows: List[_Row]) -> None:
    table = _add(parent, "table")
    names = ("Step", "Status", "Start", "End", "Duration", "Details")
    heads = _add(_add(table, "thead"), "tr")
    for name in names:
        _add(heads, "th", name, scope="col")
    body = _add(table, "tbody")
    for number, row in enumerate(rows):
        for index, mark in enumerate(_marks(row)):
            line = _add(body, "tr", id=f"row-{number}-{index}")
            head = _add(line, "th", scope="row")
            _add(head, "bdi", row.label)
            if row.name != row.label:
                _add(_add(head, "span", class_="path"), "bdi", row.name)
            status = _add(line, "td", f"{mark.look.sign} {mark.look.word}", class_=mark.look.colour)
            _set(status, data_label="Status:")
            if len(row.attempts) > 1 and "Attempt" in mark.facts:
                _add(status, "span", f"attempt {mark.facts['Attempt']}", class_="path")
            for name in names[2:5]:
                _add(line, "td", mark.facts.get(name, ""), data_label=f"{name}:")
            details = _add(line, "td")
            for name, value in mark.facts.items():
                if value and name not in ("Attempt", *names):
                    _add(details, "div", f"{name}: {value}")


def _facts(run_log: RunLog, run: _Row) -> List[Tuple[str, str]]:
    facts = [("Status", f"{run.look.sign} {run.look.word}"), ("Tag", run_log.tag)]
    if run.span:
        so_far = " so far" if run.look.colour == "running" else ""
        facts += [("Started", f"{_shown(run.span[0])} as recorded"), ("Duration", _between(*run.span) + so_far)]
    facts.append(("Re-run of", run_log.original_run_id))
    return [(name, value) for name, value in facts if value]


def _counts(rows: List[_Row]) -> List[Tuple[str, str]]:
    looks = Counter(row.look for row in rows if row.kind in ("step", "composite"))
    total = sum(looks.values())
    counts = [(look.colour, f"{look.sign} {count} {look.word}") for look, count in looks.most_common()]
    return [("text", f"{total} steps" if total > 1 else "1 step" if total else "No step has begun yet."), *counts]


def _look(status: str) -> _Look:
    return LOOKS.get(status) or _Look("waiting", "?", status)


def _span(spans: Iterable[Optional[Span]]) -> Optional[Span]:
    """The span over all spans."""
    known = [span for span in spans if span]
    return (min(start for start, _ in known), max(end for _, end in known)) if known else None


def _attempt_span(attempt: StepAttempt) -> Optional[Span]:
    times = [time for time in (_time(attempt.start_time), _time(attempt.end_time)) if time]
    return (min(times), max(times)) if times else None


def _time(text: str) -> Optional[datetime]:
    """Read a time as magnus writes it, without a zone; of one with a zone, the time in UTC."""
    try:
        time = datetime.fromisoformat(text)
        return time.astimezone(timezone.utc).replace(tzinfo=None) if time.tzinfo else time
    except (ValueError, OverflowError):
        return None


def _told(text: str) -> str:
    time = _time(text)
    return _shown(time) if time else text or "not recorded"


def _shown(time: datetime) -> str:
    return time.isoformat(" ", "milliseconds")


def _between(start: Optional[datetime], end: Optional[datetime]) -> str:
    if not start or not end:
        return "not recorded"
    return _duration((end - start).total_seconds()) if start <= end else "unclear: the clock says it ended first"


def _took(row: _Row) -> str:
    """What stands beside a row's bars: its duration, or its status where that is not known."""
    start, end = row.span or (None, None)
    return row.look.word if row.look.colour == "running" or start == end else _between(start, end)


def _duration(seconds: float) -> str:
    """Tell seconds in the one or two units that matter."""
    if not seconds:
        return "0"
    if round(seconds * 1000) < 1000:
        return f"{round(seconds * 1000, 1 if seconds < 0.01 else None):g}ms"
    if round(seconds, 1) < 60:
        return f"{round(seconds, 1):g}s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    parts = [f"{count}{unit}" for count, unit in ((days, "d"), (hour, "h"), (minute, "m"), (second, "s"))]
    first = next(index for index, part in enumerate(parts) if not part.startswith("0"))
    return " ".join(part for part in parts[first : first + 2] if not part.startswith("0"))


def _pairs(values: Mapping[str, Any]) -> str:
    """Tell metrics or parameters in short, however much they hold."""
    some = [f"{name} = {_REPR.repr(value)}" for name, value in itertools.islice(values.items(), 20)]
    return _short(", ".join(some + ["…"] * (len(values) > len(some))), 300)


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 60


def _short(text: str, limit: int) -> str:
    """Cut a text in its middle, since names often differ in their ends."""
    return text if len(text) <= limit else f"{text[: limit * 2 // 3]}…{text[-(limit // 3) :]}"


def _clean(text: str) -> str:
    """Show the characters that XML cannot hold, and other control characters, as signs."""
    return re.sub(
        "[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]",
        lambda match: chr(0x2400 + ord(match[0])) if match[0] < " " else "\ufffd",
        text,
    )


def _set(element: ET.Element, colour: Optional[str] = None, **attributes: Any) -> ET.Element:
    """Set attributes: `font_size` is font-size, `class_` is class, and a colour is a class and a fill."""
    if colour:
        attributes = {"class_": f"{attributes.pop('class_', '')} {colour}".strip(), "fill": LIGHT[colour], **attributes}
    for name, value in attributes.items():
        if value is not None:
            element.set(name.rstrip("_").replace("_", "-"), _clean(str(value)))
    return element


def _add(parent: ET.Element, tag: str, text: Optional[str] = None, **attributes: Any) -> ET.Element:
    element = ET.SubElement(parent, tag)
    element.text = None if text is None else _clean(text)
    return _set(element, **attributes)


def _at(percent: float) -> str:
    return f"{percent:.2f}%"
