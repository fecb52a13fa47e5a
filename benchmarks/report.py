"""Show the results as a table, as JSON and as a plot."""

import json
import os
import platform
from pathlib import Path
from typing import Any, Dict, List, Type, TypeVar

from rich.box import HEAVY_HEAD, MARKDOWN, Box
from rich.console import Console
from rich.table import Table

from benchmarks.databases import Database
from benchmarks.results import Comparison, Point, Result, Spread, spread
from benchmarks.stores import THIS_STORE

# A colour that is readable on white and on black, because docs/benchmarks.md is shown on both.
TEXT_COLOUR = "#808080"
THIS_STORE_COLOURS = ["#e8590c", "#1c7ed6", "#2b8a3e"]
OTHER_STORE_COLOURS = ["#868e96", "#ae3ec9", "#12b886", "#f03e3e", "#f59f00"]

T = TypeVar("T")


def machine(databases: List[Database]) -> Dict[str, Any]:
    """Return the system, the number of CPUs, and the versions of Python and of the databases."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        **{database.title: database.version for database in databases},
    }


def show(results: List[Result], console: Console, metadata: Dict[str, Any]) -> None:
    """Print the results and the metadata. The table is Markdown if the console is not a terminal."""
    box = HEAVY_HEAD if console.is_terminal else MARKDOWN
    console.print(_comparisons(of_type(Comparison, results), box))
    console.print(", ".join(f"{name} {value}" for name, value in metadata.items()))


def write_json(results: List[Result], metadata: Dict[str, Any], path: Path) -> None:
    """Write all samples, the comparisons and the metadata to a JSON file."""
    content = {
        "about": metadata,
        "comparisons": [each.as_json() for each in of_type(Comparison, results)],
        "points": [each._asdict() for each in of_type(Point, results)],
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def of_type(result_type: Type[T], results: List[Result]) -> List[T]:
    """Return the results of one type."""
    return [each for each in results if isinstance(each, result_type)]


def plot(results: List[Result], path: Path) -> None:
    """Plot the cost of a step against the number of steps in the run. The suffix of the path selects the format."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    lines: Dict[str, List[Point]] = {}
    for point in of_type(Point, results):
        if point.store == THIS_STORE:
            lines.setdefault(f"{THIS_STORE}, {point.database}", []).append(point)
        elif point.database == "SQLite":
            lines.setdefault(point.store, []).append(point)

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    colours, other_colours = iter(THIS_STORE_COLOURS), iter(OTHER_STORE_COLOURS)
    for label, points in lines.items():
        style: Dict[str, Any] = (
            {"color": next(colours), "linewidth": 2.5}
            if label.startswith(THIS_STORE)
            else {"color": next(other_colours), "linewidth": 1.5, "linestyle": "--"}
        )
        sizes = [point.steps for point in points]
        costs = [Spread(*(1000 * seconds for seconds in spread(point.samples))) for point in points]
        axes.plot(sizes, [cost.median for cost in costs], label=label, marker="o", **style)
    axes.set(xscale="log", yscale="log", xlabel="steps already in the run", ylabel="ms for a step's six calls")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,g}")
        axis.set_minor_formatter("")
        axis.label.set_color(TEXT_COLOUR)
    axes.tick_params(which="both", colors=TEXT_COLOUR)
    axes.spines[:].set_visible(False)
    axes.grid(color=TEXT_COLOUR, alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, labelcolor=TEXT_COLOUR, fontsize="small")
    figure.savefig(path, transparent=True, dpi=150)


def _comparisons(comparisons: List[Comparison], box: Box) -> Table:
    table = Table("workload", "database", "result", "compared with", "its result", "ratio", "goal", box=box)
    for each in comparisons:
        workload = each.workload if each.store == THIS_STORE else f"{each.workload}, by {each.store}"
        result, other_result = (_amount(spread(samples), each.unit) for samples in (each.samples, each.other_samples))
        table.add_row(workload, each.database, result, each.against, other_result, _ratio(each), _goal(each))
    return table


def _ratio(each: Comparison) -> str:
    if each.criterion == "value":
        return ""
    ratio = each.goal_value()
    text = f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f})"
    return f"{text} times faster" if each.criterion == "speed-up" else text


def _goal(each: Comparison) -> str:
    missed = each.missed_by()
    if missed is None:
        return ""
    goal = f"≤ {each.at_most:g}" if each.at_most is not None else f"≥ {each.at_least:g}"
    return f"{goal} [red]missed by {missed:.0%}[/]" if missed else f"{goal} [green]met[/]"


def _amount(amount: Spread, unit: str) -> str:
    if unit == "errors":
        return f"{amount.high:g}"
    if unit == "s" and amount.median < 1:
        amount, unit = Spread(*(1000 * value for value in amount)), "ms"
    digits = 2 if amount.median < 10 else 1 if amount.median < 100 else 0
    return f"{amount.median:,.{digits}f} {unit} ({amount.low:,.{digits}f}–{amount.high:,.{digits}f})"
