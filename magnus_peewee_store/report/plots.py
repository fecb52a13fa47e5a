"""The plots of a report, drawn by plotly: a metric over time and by a parameter, and parallel coordinates.

The menus above a plot are plotly's own. CSS gives the texts and lines their colours, since plotly knows no dark mode.
"""

import html
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from magnus_peewee_store.report.columns import Column
from magnus_peewee_store.report.details import shorten
from magnus_peewee_store.report.elements import replace_invalid
from magnus_peewee_store.report.styles import FONT, status_style

MOST_CHOICES = 100  # metrics or parameters in a menu
MOST_AXES = 7  # parameters among the parallel coordinates
LONGEST_LABEL, LONGEST_TICK = 32, 20  # characters
AXIS_WIDTH = 110  # pixels that an axis of the parallel coordinates needs
LOG_RATIO = 100  # A parameter whose largest value is so many times its smallest has a logarithmic axis.
# Colours that can be seen on light and on dark backgrounds.
COLOURS = {"success": "#17916f", "fail": "#e2501f", "running": "#3a7fdd", "waiting": "#7c8894"}
SYMBOLS = {"success": "circle", "fail": "x", "running": "triangle-right", "waiting": "circle-open"}
GRADIENT = [[0, "#2f7ee6"], [0.5, "#9a62c7"], [1, "#e8601c"]]

# Opens the page of a run. With a finger, a tap only shows the label.
_OPEN_ON_CLICK = """
if (matchMedia("(hover: hover)").matches)
    document.getElementById("{plot_id}").on("plotly_click", event => location.assign(event.points[0].customdata));
"""


class Plot(NamedTuple):
    """A plot and what is around it."""

    id: str
    heading: str
    html: str
    min_width: int = 0
    """In pixels. Where there is less room, the plot scrolls."""


def draw_plots(
    fields: Sequence[Column], params: Sequence[Column], metrics: Sequence[Column], urls: Sequence[str]
) -> List[Plot]:
    """Draw the plots that the runs have values for.

    Args:
        fields: The fields. They include `run_id`, `status`, `started` and `duration`, if a run has it.
        params: The parameters.
        metrics: The metrics.
        urls: The address of the page of each run.
    """
    runs = _Runs({each.name: each for each in fields}, urls)
    ys = [each for each in metrics if each.has_numbers][:MOST_CHOICES]
    ys += [each for each in (runs.fields.get("duration"),) if each and each.has_numbers]
    xs = sorted(params, key=lambda each: not each.varies)[:MOST_CHOICES]
    plots = []
    if ys and "started" in runs.fields:
        figure = _scatter(runs, [runs.fields["started"]], ys)
        plots.append(Plot("metric-over-time", "Metric over time", _to_html(figure, "metric-over-time")))
    if ys and xs:
        figure = _scatter(runs, xs, ys)
        plots.append(Plot("metric-by-parameter", "Metric by parameter", _to_html(figure, "metric-by-parameter")))
    axes = [each for each in xs if each.varies][:MOST_AXES]
    if ys and axes:
        figure = _parallel_coordinates(axes, ys)
        plots.append(
            Plot(
                "parallel-coordinates",
                "Parallel coordinates",
                _to_html(figure, "parallel-coordinates"),
                AXIS_WIDTH * (len(axes) + 1),
            )
        )
    return plots


class _Runs(NamedTuple):
    fields: Dict[str, Column]
    urls: Sequence[str]

    def groups(self) -> Dict[str, List[int]]:
        """Return the numbers of the runs by their status."""
        groups: Dict[str, List[int]] = {}
        for number, status in enumerate(self.fields["status"].values):
            groups.setdefault(status, []).append(number)
        return groups


def _scatter(runs: _Runs, xs: Sequence[Column], ys: Sequence[Column]) -> Any:
    """Return a plot of one point per run, with a menu for y, and one for x if there is a choice."""
    from plotly import graph_objects

    groups = runs.groups()
    figure = graph_objects.Figure()
    ids = [_escape(run_id) for run_id in runs.fields["run_id"].values]
    for status, numbers in groups.items():
        style = status_style(status)
        figure.add_scatter(
            mode="markers",
            name=_escape(status),
            marker={"color": COLOURS[style.colour], "symbol": SYMBOLS[style.colour], "size": 8},
            x=_pick(_x_values(xs[0]), numbers),
            y=_pick(ys[0].numbers, numbers),
            text=_pick(ids, numbers),
            customdata=_pick(runs.urls, numbers),
            hovertemplate="<b>%{text}</b><br>%{xaxis.title.text}: %{x}<br>%{yaxis.title.text}: %{y}",
        )
    menus = [_menu([_choice(y, "y", y.numbers, groups) for y in ys], 0)]
    if len(xs) > 1:
        menus.append(_menu([_choice(x, "x", _x_values(x), groups, _x_axis(x)) for x in xs], 1))
    figure.update_layout(**_layout(height=440, menus=menus))
    figure.update_xaxes(title_text=_label(xs[0]), **_x_axis(xs[0]))
    figure.update_yaxes(title_text=_label(ys[0]))
    figure.update_layout(showlegend=True, hovermode="closest")
    return figure


def _x_values(column: Column) -> List[Any]:
    return column.numbers if column.is_numeric else [text and _escape(text) for text in column.texts]


def _x_axis(column: Column) -> Dict[str, Any]:
    if column.name == "started":
        return {"type": "date"}
    if not column.is_numeric:
        return {"type": "category", "categoryorder": "category ascending"}
    numbers = [each for each in column.numbers if each is not None]
    is_logarithmic = min(numbers) > 0 and max(numbers) / min(numbers) >= LOG_RATIO
    return {"type": "log" if is_logarithmic else "linear"}


def _choice(
    column: Column,
    axis: str,
    values: Sequence[Any],
    groups: Dict[str, List[int]],
    options: Optional[Dict[str, Any]] = None,
) -> Tuple[Column, List[Any]]:
    """Return what a menu does to draw a column on an axis."""
    layout = {f"{axis}axis.{name}": value for name, value in (options or {}).items()}
    layout.update({f"{axis}axis.title.text": _label(column), f"{axis}axis.autorange": True})
    return column, [{axis: [_pick(values, numbers) for numbers in groups.values()]}, layout]


def _parallel_coordinates(params: Sequence[Column], ys: Sequence[Column]) -> Any:
    """Return a line per run over the parameters and a metric, with a menu for the metric."""
    from plotly import graph_objects

    last = len(params)
    lines = {"color": _dimension(ys[0])["values"], "colorscale": GRADIENT}
    figure = graph_objects.Figure()
    figure.add_parcoords(
        dimensions=[_dimension(each) for each in (*params, ys[0])],
        line=lines,
        labelangle=0,
        unselected={"line": {"color": "#7c8894", "opacity": 0.12}},
    )
    choices = []
    for y in ys:
        dimension = _dimension(y)
        changes = {f"dimensions[{last}].{name}": [value] for name, value in dimension.items()}
        choices.append((y, [{**changes, "line.color": [dimension["values"]]}]))
    figure.update_layout(**_layout(height=460, menus=[_menu(choices, 0, "restyle")]))
    return figure


def _dimension(column: Column) -> Dict[str, Any]:
    """Return an axis of parallel coordinates.

    plotly needs a number for each run. A run without a value is below all others, and outside of what is selected.
    """
    labels: List[str] = []
    if column.is_numeric or column.name.startswith(("metrics.", "duration")):
        positions = column.numbers
    else:
        labels = sorted({text for text in column.texts if text is not None})
        numbers = {text: number for number, text in enumerate(labels)}
        positions = [None if text is None else numbers[text] for text in column.texts]
    known = [each for each in positions if each is not None]
    low, high = min(known), max(known)
    gap = (high - low) * 0.08 or abs(high) * 0.08 or 1
    has_missing = len(known) < len(positions)
    return {
        "label": _label(column, LONGEST_TICK),
        "values": [low - gap if each is None else each for each in positions],
        "range": [low - gap if has_missing or low == high else low, high + gap if low == high else high],
        "constraintrange": [low, high] if has_missing else None,
        "tickvals": list(range(len(labels))) if labels else None,
        "ticktext": [_escape(shorten(label, LONGEST_TICK)) for label in labels] if labels else None,
    }


def _menu(choices: Sequence[Tuple[Column, List[Any]]], number: int, method: str = "update") -> Dict[str, Any]:
    """Return a menu above the plot: the first on the left, the second on the right."""
    return {
        "buttons": [{"label": _label(column), "method": method, "args": args} for column, args in choices],
        "x": number,
        "xanchor": "right" if number else "left",
        "y": 1,
        "yanchor": "bottom",
        "pad": {"b": 12},
        "showactive": True,
    }


def _layout(height: int, menus: List[Dict[str, Any]]) -> Dict[str, Any]:
    return {
        "height": height,
        "margin": {"t": 70, "r": 24, "b": 60, "l": 60},
        "font": {"family": FONT, "size": 13},
        "paper_bgcolor": "rgba(0, 0, 0, 0)",
        "plot_bgcolor": "rgba(0, 0, 0, 0)",
        "modebar": {"bgcolor": "rgba(0, 0, 0, 0)", "color": "#7c8894", "activecolor": "#3a7fdd"},
        "legend": {"orientation": "h", "y": -0.18},
        "updatemenus": menus,
    }


def _label(column: Column, longest: int = LONGEST_LABEL) -> str:
    unit = " (s)" if column.name == "duration" else ""
    return _escape(shorten(column.heading, longest) + unit)


def _escape(text: str) -> str:
    """Escape a text for plotly, which knows some tags of HTML, and few names of characters."""
    return html.escape(replace_invalid(text), quote=False)


def _pick(values: Sequence[Any], numbers: Sequence[int]) -> List[Any]:
    return [values[number] for number in numbers]


def _to_html(figure: Any, plot_id: str) -> str:
    text: str = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=plot_id,
        config={"responsive": True, "displaylogo": False},
        post_script=_OPEN_ON_CLICK if plot_id.startswith("metric") else None,
    )
    return text
