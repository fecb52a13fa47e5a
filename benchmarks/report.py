"""What is shown of the results: a table, JSON, and a plot."""

import json
import os
import platform
from pathlib import Path
from typing import Any, Dict, List

from rich.console import Console
from rich.table import Table

from benchmarks.contenders import OURS
from benchmarks.databases import Database
from benchmarks.results import Comparison, Point, Results, Spread, spread

# Of a colour that reads on white and on black, as README is shown on either.
INK = "#808080"
PALETTE = ["#e8590c", "#2b8a3e", "#1c7ed6", "#868e96", "#ae3ec9", "#e03131", "#f08c00", "#0c8599"]


def machine(databases: List[Database]) -> Dict[str, Any]:
    """The machine, in general terms.

    Args:
        databases: The databases that were measured.
    """
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        **{database.title: database.version for database in databases},
    }


def show(results: Results, console: Console, about: Dict[str, Any]) -> None:
    """Print the tables.

    Args:
        results: The results.
        console: Where to.
        about: The machine.
    """
    if results.comparisons:
        console.print(_comparisons(results))
    if results.counts:
        console.print(_counts(results))
    console.print(", ".join(f"{name} {value}" for name, value in about.items()))


def write_json(results: Results, about: Dict[str, Any], path: Path) -> None:
    """Write all samples, and what they are judged as.

    Args:
        results: The results.
        about: The machine, and what else there is to say.
        path: The file.
    """
    content = {
        **about,
        "comparisons": [each.as_json() for each in results.comparisons],
        "points": [each._asdict() for each in results.points],
        "counts": [each._asdict() for each in results.counts],
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def plot(results: Results, path: Path) -> None:
    """Draw what a step costs by how many steps the run has.

    Args:
        results: The results.
        path: The file; its ending says of what kind.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    colours = dict(
        zip(dict.fromkeys((each.database, each.contender) for each in results.points if _drawn(each)), PALETTE)
    )
    for (database, contender), colour in colours.items():
        points = sorted(
            (each.steps, spread(each.samples))
            for each in results.points
            if (each.database, each.contender) == (database, contender)
        )
        sizes = [size for size, _ in points]
        label = f"{contender}, {database}" if contender == OURS else contender
        own = {"linewidth": 2.5} if contender == OURS else {"linewidth": 1.5, "linestyle": "--"}
        axes.plot(sizes, [1000 * cost.median for _, cost in points], label=label, color=colour, marker="o", **own)
        low, high = ([1000 * getattr(cost, end) for _, cost in points] for end in ("low", "high"))
        axes.fill_between(sizes, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set(xscale="log", yscale="log", xlabel="steps that the run has already", ylabel="ms for a step's six calls")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.tick_params(which="both", colors=INK)
    for text in (axes.xaxis.label, axes.yaxis.label):
        text.set_color(INK)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.grid(which="major", color=INK, alpha=0.3)
    axes.legend(frameon=False, labelcolor=INK, fontsize="small")
    figure.savefig(path, transparent=True, dpi=150)


def _drawn(point: Point) -> bool:
    """Whether it is one of the stores, of which others than this one are drawn on SQLite alone; or SQLite's floor."""
    return point.contender == OURS or point.database == "SQLite"


def _comparisons(results: Results) -> Table:
    table = Table(title="median (lowest to highest round)", title_justify="left")
    for name in ("work", "database"):
        table.add_column(name)
    for name in ("it takes", "against", "takes", "ratio", "goal"):
        table.add_column(name, justify="left" if name in ("against", "goal") else "right")
    for each in results.comparisons:
        table.add_row(*_row(each))
    return table


def _counts(results: Results) -> Table:
    table = Table(title="how often a call goes to the database", title_justify="left")
    table.add_column("call")
    calls: Dict[str, Dict[str, int]] = {}
    heads: List[str] = []
    for each in results.counts:
        head = f"{each.database}, {each.unit}"
        if head not in heads:
            heads.append(head)
            table.add_column(head, justify="right")
        calls.setdefault(each.call, {})[head] = each.count
    for call, counts in calls.items():
        table.add_row(call, *(str(counts.get(head, "")) for head in heads))
    return table


def _row(each: Comparison) -> List[str]:
    work = each.work if each.contender == OURS else f"[dim]{each.work}, by {each.contender}[/]"
    own, other = (_amount(spread(samples), each.unit) for samples in (each.samples, each.others))
    judged = each.judged()
    if each.goal and each.goal.of == "value":
        ratio = ""
    elif each.goal and each.goal.of == "speed-up":
        ratio = f"{judged.median:.1f} × faster ({judged.low:.1f}–{judged.high:.1f})"
    else:
        ratio = f"{judged.median:.2f} ({judged.low:.2f}–{judged.high:.2f})"
    goal = ""
    if each.goal:
        missed = each.missed_by()
        goal = f"{each.goal} [red]missed by {missed:.0%}[/]" if missed else f"{each.goal} [green]met[/]"
    return [work, each.database, own, each.against, other, ratio, goal]


def _amount(amount: Spread, unit: str) -> str:
    if unit == "errors":
        return f"{amount.high:g}"
    if unit == "s" and amount.median < 1:
        amount, unit = Spread(*(1000 * value for value in amount)), "ms"
    digits = 2 if amount.median < 10 else 1 if amount.median < 100 else 0
    return f"{amount.median:,.{digits}f} {unit} ({amount.low:,.{digits}f}–{amount.high:,.{digits}f})"
