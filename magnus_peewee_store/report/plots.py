"""The plots of a report, drawn by plotly: a metric over time and by a parameter.

The menus above a plot are plotly's own. CSS gives the texts and lines their colours, because plotly has no dark mode.
"""

import html
import json
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from magnus_peewee_store.report.run_table import Column
from magnus_peewee_store.timeline.layout import shorten
from magnus_peewee_store.timeline.styles import DARK, FONT, status_style
from magnus_peewee_store.timeline.svg import replace_invalid

MOST_CHOICES = 100  # metrics or parameters in a menu
LONGEST_ID, LONGEST_LABEL = 60, 32  # characters
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

Groups = Sequence[Sequence[int]]  # the indices of the runs with each status


class Plot(NamedTuple):
    """A plot and what is around it."""

    id: str
    heading: str
    json: str
    """What plotly draws."""


def draw_plots(
    fields: Sequence[Column], params: Sequence[Column], metrics: Sequence[Column], urls: Sequence[str]
) -> List[Plot]:
    """Draw the plots that the runs have values for.

    Args:
        fields: The fields. They include `run_id` and `state`.
        params: The parameters.
        metrics: The metrics.
        urls: The address of the page of each run.
    """
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
    indices_of: Dict[str, List[int]] = {}
    for index, status in enumerate(field["state"].values):
        indices_of.setdefault(status, []).append(index)
    groups = list(indices_of.values())
    ids = [_escape(shorten(run_id, LONGEST_ID)) for run_id in field["run_id"].values]
    traces = []
    for status, indices in indices_of.items():
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
    y_choices = [_choice(y, "y", y.numbers, groups) for y in ys]
    x_choices = [_choice(x, "x", _positions(x), groups, _axis(x)) for x in xs]
    if len(xs) > 1:
        menus = [_menu("y: ", y_choices, row=1), _menu("x: ", x_choices, row=0)]
    else:
        menus = [_menu("y: ", y_choices, row=0)]
    axes = {"xaxis": {"title": {"text": _label(xs[0])}, **_axis(xs[0])}, "yaxis": {"title": {"text": _label(ys[0])}}}
    return json.dumps({"data": traces, "layout": {**_layout(menus), **axes}, "config": CONFIG})


def _positions(column: Column) -> List[Any]:
    if column.is_numeric:
        return column.numbers
    return [None if text is None else _escape(text) for text in column.texts]


def _axis(column: Column) -> Dict[str, Any]:
    if column.name == "started":
        return {"type": "date"}
    if not column.is_numeric:
        return {"type": "category", "categoryorder": "category ascending"}
    return {"type": "log" if _is_logarithmic(column.numbers) else "linear"}


def _is_logarithmic(numbers: Sequence[Optional[float]]) -> bool:
    known = [each for each in numbers if each is not None]
    return min(known) > 0 and max(known) / min(known) >= LOG_RATIO


def _choice(
    column: Column, axis: str, values: Sequence[Any], groups: Groups, options: Optional[Dict[str, Any]] = None
) -> Tuple[Column, List[Any]]:
    """Return the column, and the arguments for plotly to draw it on an axis."""
    layout = {f"{axis}axis.{name}": value for name, value in (options or {}).items()}
    layout.update({f"{axis}axis.title.text": _label(column), f"{axis}axis.autorange": True})
    return column, [{axis: [_pick(values, indices) for indices in groups]}, layout]


def _menu(prefix: str, choices: Sequence[Tuple[Column, List[Any]]], row: int) -> Dict[str, Any]:
    """Return a menu above the plot. Row 0 is the lowest row of menus."""
    buttons = [{"label": prefix + _label(column), "method": "update", "args": args} for column, args in choices]
    return {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "pad": {"b": 12 + 38 * row}}


def _layout(menus: List[Dict[str, Any]]) -> Dict[str, Any]:
    return {
        "height": 440,
        "margin": {"t": 24 + 42 * len(menus), "r": 16, "b": 90, "l": 64},
        "font": {"family": FONT, "size": 13},
        "paper_bgcolor": TRANSPARENT,
        "plot_bgcolor": TRANSPARENT,
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": DARK["background"], "bordercolor": COLOURS["waiting"], "align": "left"},
        "modebar": {"bgcolor": TRANSPARENT, "color": COLOURS["waiting"], "activecolor": COLOURS["running"]},
        "showlegend": True,
        "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"},
        "updatemenus": menus,
    }


def _label(column: Column) -> str:
    unit = " (s)" if column.name == "duration" else ""
    return _escape(shorten(column.heading, LONGEST_LABEL) + unit)


def _escape(text: str) -> str:
    """Escape a text for plotly. It knows some HTML tags, but not all character references."""
    return html.escape(replace_invalid(text), quote=False)


def _pick(values: Sequence[Any], indices: Sequence[int]) -> List[Any]:
    return [values[index] for index in indices]
