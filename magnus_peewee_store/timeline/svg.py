"""Build elements of SVG and HTML, draw the parts of a timeline and the curves of series, and write an SVG file."""

import html
import re
import xml.etree.ElementTree as ET
from functools import lru_cache
from typing import Any, Callable, Iterator, List, Optional, Sequence, Union

from magnus.datastore import RunLog

from magnus_peewee_store.logs import RunFacts
from magnus_peewee_store.metrics import CurvePoint
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
from magnus_peewee_store.timeline.styles import FONT, LIGHT, timeline_css

# Sizes in pixels. Every x of the chart is in percent, so that a page can stretch it.
WIDTH = 1000
LABEL_WIDTH = 260
ROW_HEIGHT = 30
AXIS_HEIGHT = 24
HEADER_HEIGHT = 92
CURVE_WIDTH, CURVE_HEIGHT, CURVE_LEFT, CURVE_BOTTOM, CURVE_MARGIN = 360, 150, 8, 18, 16

DEEPEST_SHADE = 0.1  # the opacity of the background of the deepest branches
# Angle and width of the stripes that tell bars apart without colour, for example in print.
HATCHES = {"fail": (45, 2.5), "running": (-45, 5)}

# The characters that XML 1.0 forbids or discourages: https://www.w3.org/TR/xml/#charsets
_INVALID = re.compile("[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_svg(run: Union[RunFacts, RunLog]) -> str:
    """Draw a run as an SVG file, with one bar per attempt.

    Args:
        run: The run, as `runs.read_run` returns it, or only its run log with its steps and branches.

    Returns:
        The text of the file.

    Example:
        >>> from magnus.datastore import RunLog
        >>> to_svg(RunLog(run_id="my-run"))[:40]
        '<svg xmlns="http://www.w3.org/2000/svg" '
    """
    facts = as_facts(run)
    run_log = facts.run_log
    rows, scale = lay_out(facts)
    height = HEADER_HEIGHT + AXIS_HEIGHT + ROW_HEIGHT * len(rows) + 12
    svg = element("svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {height}")
    set_attributes(svg, width=WIDTH, height=height, font_family=FONT)
    set_attributes(svg, role="group", aria_label=f"Timeline of run {run_log.run_id}")
    add(svg, "style", timeline_css())
    svg.append(draw_hatches())
    add(svg, "rect", colour="background", width="100%", height="100%")
    title = f"Run {shorten(run_log.run_id, 80)}"
    add(svg, "text", title, colour="text", x=12, y=30, font_size=18, font_weight="bold")
    details = run_details(facts, rows[0])
    text = " · ".join(f"{name}: {shorten(value, 40)}" for name, value in details.items())
    add(svg, "text", text, colour="text", x=12, y=54, font_size=13)
    counts = add(svg, "text", colour="text", x=12, y=76, font_size=13, font_weight="bold")
    for colour, count in count_steps(rows):
        add(counts, "tspan", f"{count}\u2003", colour=colour)
    svg.append(set_attributes(draw_axis(scale), x=LABEL_WIDTH, y=HEADER_HEIGHT))
    svg.append(set_attributes(draw_labels(rows), y=HEADER_HEIGHT + AXIS_HEIGHT))
    svg.append(set_attributes(draw_bars(rows, scale), x=LABEL_WIDTH, y=HEADER_HEIGHT + AXIS_HEIGHT))
    return to_text(svg)


def draw_hatches() -> ET.Element:
    """Draw the patterns that fill the bars of some statuses."""
    hatches = element("svg", class_="hatches", width=0, height=0, aria_hidden="true")
    for colour, (angle, width) in HATCHES.items():
        hatch = add(hatches, "pattern", id=f"hatch-{colour}", width=8, height=8, patternUnits="userSpaceOnUse")
        set_attributes(hatch, patternTransform=f"rotate({angle})")
        add(hatch, "rect", colour=colour, width=8, height=8)
        add(hatch, "rect", colour="background", width=width, height=8, fill_opacity=0.6)
    return hatches


def draw_axis(scale: Scale) -> ET.Element:
    """Draw the labels of the time axis."""
    axis = element("svg", width=WIDTH - LABEL_WIDTH, height=AXIS_HEIGHT, font_size=12, aria_hidden="true")
    for percent, label in scale.ticks():
        anchor = "start" if percent == 0 else "middle" if percent < 94 else "end"
        add(axis, "text", label, colour="muted", x=_format_percent(percent), y=16, text_anchor=anchor)
    return axis


def draw_labels(rows: List[ChartRow], is_page: bool = False) -> ET.Element:
    """Draw the labels of rows as a tree. A page has the durations, too, for a phone, where the bars leave no room."""
    labels = element("svg", class_="labels", width=LABEL_WIDTH, height=ROW_HEIGHT * len(rows), font_size=13)
    labels.extend(_bands(rows))
    for number, row in enumerate(rows):
        *ancestors, x = (12 + 14 * depth for depth in range(min(row.depth, 10) + 1))
        top = number * ROW_HEIGHT
        for guide in ancestors:
            line = add(labels, "path", class_="line", d=f"M{guide + 5} {top}v{ROW_HEIGHT}", stroke=LIGHT["muted"])
            set_attributes(line, stroke_opacity=0.4)
        add(labels, "text", row.style.sign, colour=row.style.colour, x=x, y=top + 20, font_weight="bold")
        attempts = f" \u00d7{row.attempt_count}" if row.attempt_count > 1 else ""
        text = shorten(row.label, (LABEL_WIDTH - x - 40) // 8) + attempts
        label = add(labels, "text", text, colour="text", x=x + 16, y=top + 20)
        set_attributes(label, font_weight="normal" if row.kind == "step" else "bold")
        add(label, "title", row.name)
        if is_page:
            duration = add(labels, "text", row.duration_or_status, colour="muted", class_="phone-duration")
            set_attributes(duration, x="100%", y=top + 20, text_anchor="end")
    return labels


def draw_bars(rows: List[ChartRow], scale: Scale, first_number: Optional[int] = None) -> ET.Element:
    """Draw the marks of rows, and the duration next to them.

    `first_number` is the number of the first row, to link each mark to its row of the table; None for no links.
    """
    bars = element("svg", width=WIDTH - LABEL_WIDTH, height=ROW_HEIGHT * len(rows), class_="bars")
    bars.extend(_bands(rows))
    for percent, _ in scale.ticks():
        x = _format_percent(percent)
        add(bars, "line", class_="line", x1=x, x2=x, y2="100%", stroke=LIGHT["muted"], stroke_opacity=0.25)
    for number, row in enumerate(rows):
        marks_end = 0.0
        for index, mark in enumerate(row.marks):
            if not mark.kind:
                continue
            link = None if first_number is None else f"#{table_row_id(first_number + number, index)}"
            bars.append(_draw_mark(row, mark, scale, number * ROW_HEIGHT, link))
            marks_end = max(marks_end, scale.extent(mark)[1])
        duration = add(bars, "text", row.duration_or_status, colour="text", class_="duration", font_size=12)
        set_attributes(duration, x=_format_percent(marks_end), dx=6, y=number * ROW_HEIGHT + 20)
    return bars


def table_row_id(row_number: int, mark_number: int) -> str:
    """Return the id of the table row that a mark links to."""
    return f"row-{row_number}-{mark_number}"


def _draw_mark(row: ChartRow, mark: Mark, scale: Scale, top: int, link: Optional[str]) -> ET.Element:
    colour = mark.style.colour
    focus = {"href": link} if link else {"tabindex": 0, "role": "img"}
    group = element("a" if link else "g", colour=colour, class_=f"mark {mark.kind}", color=LIGHT[colour], **focus)
    details = [f"{name}: {shorten(value, 300)}" for name, value in mark.details.items() if value]
    add(group, "title", "\n".join([row.name, f"{mark.style.sign} {mark.style.word}", *details]))
    left, right = scale.extent(mark)
    bar = add(group, "rect", x=_format_percent(left), width=_format_percent(right - left), y=top + 8)
    if mark.kind == "summary":
        set_attributes(bar, class_="summary-line", height=4)
        for x, shift in ((left, 0), (right, -2)):
            end = add(group, "rect", x=_format_percent(x), width=2, y=top + 8, height=12)
            set_attributes(end, transform=f"translate({shift})")
    else:
        set_attributes(bar, height=14, rx=2, stroke="currentColor")
        if colour in HATCHES:
            set_attributes(bar, fill=f"url(#hatch-{colour})")
    return group


def _bands(rows: List[ChartRow]) -> Iterator[ET.Element]:
    """Yield the background of each row. It is darker if the row is nested more deeply."""
    for number, row in enumerate(rows):
        band = element("rect", colour="text", class_="band", y=number * ROW_HEIGHT, width="100%", height=ROW_HEIGHT)
        yield set_attributes(band, fill_opacity=f"{min(0.02 * row.depth, DEEPEST_SHADE):.2f}")


def _format_percent(percent: float) -> str:
    return f"{percent:.2f}%"


def draw_curve(points: Sequence[CurvePoint]) -> ET.Element:
    """Draw a series: a curve, and the ends of both axes."""
    values = [value for _, value in points if value is not None]
    low, high, first, last = min(values), max(values), points[0][0], points[-1][0]
    label = f"from {format_number(low)} to {format_number(high)}, iterations {first} to {last}"
    view_box = f"0 0 {CURVE_WIDTH} {CURVE_HEIGHT}"
    svg = element("svg", class_="curve", viewBox=view_box, role="img", aria_label=label)
    base = CURVE_HEIGHT - CURVE_BOTTOM
    for text, y in ((format_number(high), 11), (format_number(low), base - 4)):
        add(svg, "text", text, colour="muted", x=CURVE_LEFT, y=y, font_size=11)
    for text, x, anchor in ((f"{first:,}", CURVE_LEFT, "start"), (f"{last:,}", CURVE_WIDTH - CURVE_LEFT, "end")):
        add(svg, "text", text, colour="muted", x=x, y=CURVE_HEIGHT - 3, font_size=11, text_anchor=anchor)
    add(svg, "path", class_="line", d=f"M0 {base}H{CURVE_WIDTH}", stroke_opacity=0.4)
    # Halved first, because the difference of two large numbers may be infinite.
    bottom, height = low / 2, high / 2 - low / 2
    # Other software may have written the iterations 0 and -0, whose difference is 0.
    width, length = CURVE_WIDTH - 2 * CURVE_LEFT, last - first or 1
    foot, rise = base - CURVE_MARGIN, base - 2 * CURVE_MARGIN
    commands, command = [], "M"
    for iteration, value in points:
        if value is None:
            command = "M"
            continue
        right = CURVE_LEFT + width * (iteration - first) / length
        down = foot - rise * ((value / 2 - bottom) / height if height else 0.5)
        commands.append(f"{command}{right:.1f} {down:.1f}")
        command = "L"
    add(svg, "path", class_="curve-line", d="".join([*commands, "h0"]))
    return svg


def format_number(value: Any) -> str:
    """Return a number with 6 significant digits."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def element(tag: str, text: Optional[str] = None, **attributes: Any) -> ET.Element:
    """Create an element; `set_attributes` describes the attributes."""
    new = ET.Element(tag)
    new.text = text
    return set_attributes(new, **attributes)


def add(parent: ET.Element, tag: str, text: Optional[str] = None, **attributes: Any) -> ET.Element:
    """Create an element at the end of its parent."""
    child = ET.SubElement(parent, tag)
    child.text = text
    return set_attributes(child, **attributes)


def set_attributes(target: ET.Element, colour: Optional[str] = None, **attributes: Any) -> ET.Element:
    """Set attributes of an element and return it. `font_size` sets font-size, and `class_` sets class.

    A colour adds a class and a fill. The fill is the light colour, for viewers that ignore stylesheets.
    """
    if colour:
        target.set("class", f"{attributes.pop('class_', '')} {colour}".strip())
        target.set("fill", LIGHT[colour])
    for name, value in attributes.items():
        target.set(_attribute_name(name), str(value))
    return target


@lru_cache(maxsize=None)
def _attribute_name(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


# Of the elements without an end tag, those that are used here: https://html.spec.whatwg.org/#void-elements
_VOID = ("link", "meta")


def to_text(root: ET.Element) -> str:
    """Return an element of HTML or SVG as text, without invalid characters.

    It has no tails, namespaces or comments. `ET.tostring` looks for them, and takes twice as long.
    """
    parts: List[str] = []
    _write(root, parts.append)
    return replace_invalid("".join(parts))


def _write(node: ET.Element, write: Callable[[str], Any]) -> None:
    write(f"<{node.tag}")
    for name, value in node.items():
        write(f' {name}="{html.escape(value)}"')
    write(">")
    if node.text:
        # HTML does not unescape a stylesheet, which is always one of our own files.
        write(node.text if node.tag == "style" else html.escape(node.text, quote=False))
    for child in node:
        _write(child, write)
    if node.tag not in _VOID:
        write(f"</{node.tag}>")


def replace_invalid(text: str) -> str:
    """Replace control characters by their symbols, such as ␀, and other invalid characters by U+FFFD."""
    if text.replace("\n", "").isprintable():  # Most texts are. The pattern takes longer.
        return text
    return _INVALID.sub(lambda match: chr(0x2400 + ord(match[0])) if match[0] < " " else "\ufffd", text)
