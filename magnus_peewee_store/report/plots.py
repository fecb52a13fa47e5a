"""The plots of a report, drawn by plotly: a metric over time and by a parameter.

The menus above a plot are plotly's own. CSS gives the texts and lines their colours, because plotly has no dark mode.
"""

import html
import json
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple

from magnus_peewee_store.report.run_table import LONGEST_ID, Column
from magnus_peewee_store.timeline.layout import shorten
from magnus_peewee_store.timeline.styles import DARK, FONT, status_style
from magnus_peewee_store.timeline.svg import replace_invalid

MOST_CHOICES = 100  # metrics or parameters in a menu
LONGEST_LABEL = 32  # characters
LOG_RATIO = 100  # If the largest value of a parameter is this many times its smallest, its axis is logarithmic.
# Colours that can be seen on light and on dark backgrounds.
COLOURS = {"success": "#17916f", "fail": "#e2501f", "running": "#3a7fdd", "waiting": "#7c8894", "dead": "#b07a10"}
SYMBOLS = {"success": "circle", "fail": "x", "running": "triangle-right", "waiting": "circle-open", "dead": "square-x"}
TRANSPARENT = "rgba(0, 0, 0, 0)"
CLICK = "One point per run. Click it to see the run."
HOVER = "<b>%{text}</b> %{fullData.name}<br>%{xaxis.title.text}: %{x}<br>%{yaxis.title.text}: %{y}<extra></extra>"
CONFIG = {
    "responsive": True,
    "displaylogo": False,
    "showSendToCloud": False,  # Some versions of plotly show a button that uploads the data.
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
}
LAYOUT = {
    "height": 440,
    "font": {"family": FONT, "size": 13},
    "paper_bgcolor": TRANSPARENT,
    "plot_bgcolor": TRANSPARENT,
    "hovermode": "closest",
    "hoverlabel": {"bgcolor": DARK["background"], "bordercolor": COLOURS["waiting"], "align": "left"},
    "modebar": {"bgcolor": TRANSPARENT, "color": COLOURS["waiting"], "activecolor": COLOURS["running"]},
    "showlegend": True,
    "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"},
}


class Plot(NamedTuple):
    """A plot and what is around it."""

    id: str
    heading: str
    json: str
    """What plotly draws."""


def draw_plots(
    fields: Sequence[Column], params: Sequence[Column], metrics: Sequence[Column], urls: Sequence[str]
) -> List[Plot]:
    """Draw the plots that the runs have values for. `urls` are the addresses of their pages."""
    field = {each.name: each for each in fields}
    ys = [each for each in metrics if each.has_numbers][:MOST_CHOICES]
    ys += [field["duration"]] if "duration" in field else []
    if not ys:
        return []
    xs = sorted(params, key=lambda each: not each.varies)[:MOST_CHOICES]  # Those that vary come first.
    plots = []
    if "started" in field:
        plots.append(Plot("over-time", "Metric over time", _scatter(field, urls, [field["started"]], ys)))
    if xs:
        plots.append(Plot("by-parameter", "Metric by parameter", _scatter(field, urls, xs, ys)))
    return plots


def _scatter(field: Dict[str, Column], urls: Sequence[str], xs: Sequence[Column], ys: Sequence[Column]) -> str:
    """Return a plot of one point per run, with a menu for y, and one for x if there is a choice."""
    groups: Dict[str, List[int]] = {}  # by status, the indices of the runs
    for index, status in enumerate(field["state"].values):
        groups.setdefault(status, []).append(index)
    ids = [_escape(shorten(run_id, LONGEST_ID)) for run_id in field["run_id"].values]
    traces = []
    for status, indices in groups.items():
        style = status_style(status)
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": _escape(status),
                "marker": {"color": COLOURS[style.colour], "symbol": SYMBOLS[style.colour], "size": 8},
                "x": _pick(_positions(xs[0]), indices),
                "y": _pick(ys[0].numbers, indices),
                "text": _pick(ids, indices),
                "customdata": _pick(urls, indices),
                "hovertemplate": HOVER,
            }
        )
    has_choice = len(xs) > 1
    menus = [_menu("y", [(y, y.numbers, {}) for y in ys], groups, row=int(has_choice))]
    if has_choice:
        menus.append(_menu("x", [(x, _positions(x), _axis(x)) for x in xs], groups, row=0))
    layout = {
        **LAYOUT,
        "margin": {"t": 24 + 42 * len(menus), "r": 16, "b": 90, "l": 64},
        "updatemenus": menus,
        "xaxis": {"title": {"text": _label(xs[0])}, **_axis(xs[0])},
        "yaxis": {"title": {"text": _label(ys[0])}},
    }
    return json.dumps({"data": traces, "layout": layout, "config": CONFIG})


def _positions(column: Column) -> List[Any]:
    if column.is_numeric:
        return column.numbers
    return [None if text is None else _escape(text) for text in column.texts]


def _axis(column: Column) -> Dict[str, Any]:
    if column.name == "started":
        return {"type": "date"}
    if not column.is_numeric:
        return {"type": "category", "categoryorder": "category ascending"}
    known = [each for each in column.numbers if each is not None]
    is_logarithmic = min(known) > 0 and max(known) / min(known) >= LOG_RATIO
    return {"type": "log" if is_logarithmic else "linear"}


def _menu(
    axis: str, choices: Sequence[Tuple[Column, List[Any], Dict[str, Any]]], groups: Mapping[str, List[int]], row: int
) -> Dict[str, Any]:
    """Return a menu above the plot that draws a column, with its values and its options, on an axis.

    Row 0 is the lowest row of menus.
    """
    buttons = []
    for column, values, options in choices:
        layout = {f"{axis}axis.{name}": value for name, value in options.items()}
        layout.update({f"{axis}axis.title.text": _label(column), f"{axis}axis.autorange": True})
        data = {axis: [_pick(values, indices) for indices in groups.values()]}
        buttons.append({"label": f"{axis}: {_label(column)}", "method": "update", "args": [data, layout]})
    return {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "pad": {"b": 12 + 38 * row}}


def _label(column: Column) -> str:
    unit = " (s)" if column.name == "duration" else ""
    return _escape(shorten(column.heading, LONGEST_LABEL) + unit)


def _escape(text: str) -> str:
    """Escape a text for plotly. It knows some HTML tags, but not all character references."""
    return html.escape(replace_invalid(text), quote=False)


def _pick(values: Sequence[Any], indices: Sequence[int]) -> List[Any]:
    return [values[index] for index in indices]
