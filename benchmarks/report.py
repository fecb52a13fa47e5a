"""Show the results as a table."""

import os
import platform
from typing import Any, Dict, List

from rich.box import HEAVY_HEAD, MARKDOWN, Box
from rich.console import Console
from rich.table import Table

from benchmarks.databases import Database
from benchmarks.stores import THIS_STORE
from benchmarks.timing import Comparison, Spread


def machine(databases: List[Database]) -> Dict[str, Any]:
    """Return the system, the number of CPUs, and the versions of Python and of the databases."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        **{database.title: database.version for database in databases},
    }


def show(comparisons: List[Comparison], console: Console, metadata: Dict[str, Any]) -> None:
    """Print the results and the metadata. The table is Markdown if the console is not a terminal."""
    box = HEAVY_HEAD if console.is_terminal else MARKDOWN
    console.print(_table(comparisons, box))
    console.print(", ".join(f"{name} {value}" for name, value in metadata.items()))


def _table(comparisons: List[Comparison], box: Box) -> Table:
    table = Table("workload", "database", "result", "compared with", "its result", "ratio", "goal", box=box)
    for each in comparisons:
        workload = each.workload if each.store == THIS_STORE else f"{each.workload}, by {each.store}"
        result, other_result = (_amount(each.spread(store), each.unit) for store in (each.store, each.against))
        ratio = "{:.2f} ({:.2f}–{:.2f})".format(*each.ratio()) if each.has_ratio else ""
        table.add_row(workload, each.database.title, result, each.against, other_result, ratio, _goal(each))
    return table


def _goal(each: Comparison) -> str:
    if each.at_most is None and each.at_least is None:
        return ""
    goal = f"≤ {each.at_most:g}" if each.at_most is not None else f"≥ {each.at_least:g}"
    return f"{goal} [red]missed[/]" if each.is_missed() else f"{goal} [green]met[/]"


def _amount(amount: Spread, unit: str) -> str:
    if unit == "s" and amount.median < 1:
        amount, unit = Spread(*(1000 * value for value in amount)), "ms"
    digits = 2 if amount.median < 10 else 1 if amount.median < 100 else 0
    return f"{amount.median:,.{digits}f} {unit} ({amount.low:,.{digits}f}–{amount.high:,.{digits}f})"
