"""The plots of a report, drawn by plotly: a metric over time and by a parameter, and parallel coordinates.

The menus above a plot are plotly's own. CSS gives the texts and lines their colours, because plotly has no dark mode.
"""

import html
import json
import math
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from magnus_peewee_store.report.columns import Column, short_text
from magnus_peewee_store.timeline.details import shorten
from magnus_peewee_store.timeline.elements import replace_invalid
from magnus_peewee_store.timeline.styles import DARK, FONT, status_style

MOST_CHOICES = 100  # metrics or parameters in a menu
MOST_AXES = 7  # parameters among the parallel coordinates
AXIS_WIDTH = 110  # pixels that an axis of the parallel coordinates needs
LONGEST_ID, LONGEST_LABEL, LONGEST_TICK = 60, 32, 20  # characters
MOST_TICKS = 10
LOG_RATIO = 100  # If the largest value of a parameter is this many times its smallest, its axis is logarithmic.
# Colours that can be seen on light and on dark backgrounds.
COLOURS = {"success": "#17916f", "fail": "#e2501f", "running": "#3a7fdd", "waiting": "#7c8894"}
SYMBOLS = {"success": "circle", "fail": "x", "running": "triangle-right", "waiting": "circle-open"}
GRADIENT = [[0, "#2f7ee6"], [0.5, "#9a62c7"], [1, "#e8601c"]]
TRANSPARENT = "rgba(0, 0, 0, 0)"
CLICK = "One point per run. Click it to see the run."
SELECT = "One line per run. Drag along an axis to select runs, and drag a name to move its axis."
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
    hint: str
    json: str
    """What plotly draws."""
    min_width: int = 0
    """In pixels. Where there is less room, the plot scrolls."""


def draw_plots(
    fields: Sequence[Column], params: Sequence[Column], metrics: Sequence[Column], urls: Sequence[str]
) -> List[Plot]:
    """Draw the plots that the runs have values for.

    Args:
        fields: The fields. They include `run_id` and `status`.
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
        plots.append(
            Plot("over-time", "Metric over time", CLICK, _to_json(_scatter(field, urls, [field["started"]], ys)))
        )
    if xs:
        plots.append(Plot("by-parameter", "Metric by parameter", CLICK, _to_json(_scatter(field, urls, xs, ys))))
    measured = _measured(ys)
    axes = [each for each in (column.only(measured) for column in xs) if each.varies][:MOST_AXES]
    if axes:
        figure = _to_json(_parallel_coordinates(axes, [each.only(measured) for each in ys]))
        plots.append(Plot("parallel-coordinates", "Parallel coordinates", SELECT, figure, AXIS_WIDTH * (len(axes) + 1)))
    return plots


def _scatter(field: Dict[str, Column], urls: Sequence[str], xs: Sequence[Column], ys: Sequence[Column]) -> Any:
    """Return a plot of one point per run, with a menu for y, and one for x if there is a choice."""
    from plotly import graph_objects

    indices_of: Dict[str, List[int]] = {}
    for index, status in enumerate(field["status"].values):
        indices_of.setdefault(status, []).append(index)
    groups = list(indices_of.values())
    ids = [_escape(shorten(run_id, LONGEST_ID)) for run_id in field["run_id"].values]
    figure = graph_objects.Figure()
    for status, indices in indices_of.items():
        style = status_style(status)
        figure.add_scatter(
            mode="markers",
            name=_escape(status),
            marker={"color": COLOURS[style.colour], "symbol": SYMBOLS[style.colour], "size": 8},
            x=_pick(_positions(xs[0]), indices),
            y=_pick(ys[0].numbers, indices),
            text=_pick(ids, indices),
            customdata=_pick(urls, indices),
            hovertemplate=HOVER,
        )
    y_choices = [_choice(y, "y", y.numbers, groups) for y in ys]
    x_choices = [_choice(x, "x", _positions(x), groups, _axis(x)) for x in xs]
    if len(xs) > 1:
        menus = [_menu("y: ", y_choices, row=1), _menu("x: ", x_choices, row=0)]
    else:
        menus = [_menu("y: ", y_choices, row=0)]
    figure.update_layout(**_layout(440, menus))
    figure.update_xaxes(title_text=_label(xs[0]), **_axis(xs[0]))
    figure.update_yaxes(title_text=_label(ys[0]))
    return figure


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


def _measured(ys: Sequence[Column]) -> List[int]:
    """Return the indices of the runs that have a metric. If there are no metrics, the duration counts."""
    metrics = [each for each in ys if each.name != "duration"] or ys
    rows = zip(*(each.numbers for each in metrics))
    return [index for index, row in enumerate(rows) if any(number is not None for number in row)]


def _parallel_coordinates(params: Sequence[Column], ys: Sequence[Column]) -> Any:
    """Return a plot of one line per run, with an axis per parameter, one for a metric, and a menu for the metric."""
    from plotly import graph_objects

    dimensions = [_dimension(y, y.numbers) for y in ys]
    figure = graph_objects.Figure()
    figure.add_parcoords(
        dimensions=[*(_parameter_dimension(each) for each in params), dimensions[0]],
        line={"color": dimensions[0]["values"], "colorscale": GRADIENT},
        unselected={"line": {"color": COLOURS["waiting"], "opacity": 0.12}},
    )
    choices = []
    for y, dimension in zip(ys, dimensions):
        changes = {f"dimensions[{len(params)}].{name}": [value] for name, value in dimension.items()}
        choices.append((y, [{**changes, "line.color": [dimension["values"]]}]))
    layout = _layout(480, [_menu("", choices, 0, method="restyle", gap=44)])
    figure.update_layout(**{**layout, "margin": {"t": 110, "r": 60, "b": 40, "l": 60}})
    return figure


def _parameter_dimension(column: Column) -> Dict[str, Any]:
    """Return an axis for a parameter. Its ticks are the values, or round numbers if there are many numbers."""
    if not column.is_numeric:
        labels = sorted({text for text in column.texts if text is not None})
        position_of = {text: number for number, text in enumerate(labels)}
        return _dimension(column, [None if text is None else position_of[text] for text in column.texts], position_of)
    convert = math.log10 if _is_logarithmic(column.numbers) else float
    distinct = sorted({each for each in column.numbers if each is not None})
    ticks = {short_text(each): convert(each) for each in distinct}
    if len(ticks) > MOST_TICKS and convert is math.log10:
        powers = range(math.ceil(convert(distinct[0])), math.floor(convert(distinct[-1])) + 1)
        ticks = {short_text(10.0**power): float(power) for power in powers}
    positions = [None if each is None else convert(each) for each in column.numbers]
    return _dimension(column, positions, ticks if len(ticks) <= MOST_TICKS else {})


def _dimension(column: Column, positions: Sequence[Optional[float]], ticks: Mapping[str, float] = {}) -> Dict[str, Any]:
    """Return an axis of parallel coordinates.

    plotly needs a number for each run. A run without a number is drawn below all others, and is not selected.
    """
    known = [each for each in positions if each is not None]
    low, high = min(known), max(known)
    gap = (high - low) * 0.08 or abs(high) * 0.08 or 1
    has_missing = len(known) < len(positions)
    return {
        "label": _label(column, LONGEST_TICK),
        "values": [low - gap if each is None else each for each in positions],
        "range": [low - gap if has_missing or low == high else low, high + gap if low == high else high],
        "constraintrange": [low, high] if has_missing else None,
        "tickvals": list(ticks.values()) or None,
        # Not escaped: parallel coordinates show texts as they are, not as HTML.
        "ticktext": [replace_invalid(shorten(text, LONGEST_TICK)) for text in ticks] or None,
    }


def _menu(
    prefix: str, choices: Sequence[Tuple[Column, List[Any]]], row: int, method: str = "update", gap: int = 12
) -> Dict[str, Any]:
    """Return a menu above the plot. Row 0 is the lowest row of menus."""
    buttons = [{"label": prefix + _label(column), "method": method, "args": args} for column, args in choices]
    return {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "pad": {"b": gap + 38 * row}}


def _layout(height: int, menus: List[Dict[str, Any]]) -> Dict[str, Any]:
    return {
        "template": "none",
        "height": height,
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


def _to_json(figure: Any) -> str:
    from plotly.utils import PlotlyJSONEncoder

    return json.dumps({**figure.to_plotly_json(), "config": CONFIG}, cls=PlotlyJSONEncoder)


def _label(column: Column, longest: int = LONGEST_LABEL) -> str:
    unit = " (s)" if column.name == "duration" else ""
    return _escape(shorten(column.heading, longest) + unit)


def _escape(text: str) -> str:
    """Escape a text for plotly. It knows some HTML tags, but not all character references."""
    return html.escape(replace_invalid(text), quote=False)


def _pick(values: Sequence[Any], indices: Sequence[int]) -> List[Any]:
    return [values[index] for index in indices]
