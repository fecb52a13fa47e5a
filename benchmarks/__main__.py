"""The command: `python -m benchmarks`."""

import fnmatch
import sys
import tempfile
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from servers import why_missing

from benchmarks import processes, report, work
from benchmarks.databases import DATABASES, Database, running
from benchmarks.measuring import FULL, QUICK, Effort
from benchmarks.results import Result

MEASURES: Dict[str, Callable[[Database, Effort], Iterator[Result]]] = {
    "step": work.step,
    "parameters": work.parameters,
    "full-run-log": work.full_run_log,
    "growth": work.growth,
    "crowd": work.many_processes,
    "first-call": processes.first_call,
    "pipeline": processes.pipeline,
    "runs": work.runs,
    "counts": work.counts,
}
WIDTH = 300  # of a file: enough for a row of a table
NAMES = [f"{measure}/{database}" for measure in MEASURES for database in DATABASES]


@click.command(help=f"Measure how fast the store is: {', '.join(MEASURES)}, each on {', '.join(DATABASES)}.")
@click.option("--only", metavar="PATTERN", default="*", help="Those whose name matches, like 'step/*' or '*/sqlite'.")
@click.option("--rounds", type=click.IntRange(1), help="How many rounds each takes.")
@click.option("--quick", is_flag=True, help="Small sizes, to see that it works; its figures say little.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write all samples there.")
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw the cost of a step: a .png or .svg."
)
def main(only: str, rounds: Optional[int], quick: bool, json_file: Optional[Path], plot: Optional[Path]) -> None:
    """Run the benchmarks that are asked for, and show what they give."""
    names = fnmatch.filter(NAMES, only)
    if not names:
        raise click.BadParameter(f"'{only}' matches no benchmark, as '{NAMES[0]}' is one.", param_hint="--only")
    effort = QUICK if quick else FULL
    effort = effort._replace(rounds=rounds or effort.rounds)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    results: List[Result] = []
    present: List[Database] = []
    columns = (SpinnerColumn(finished_text="✓"), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for kind in DATABASES:
            wanted = [name for name in names if name.endswith(f"/{kind}")]
            missing = why_missing(kind) if wanted and kind != "sqlite" else ""
            if missing:
                progress.console.print(f"[yellow]Left out {', '.join(wanted)}: {missing}[/]")
            if missing or not wanted:
                continue
            with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder, running(kind, Path(folder)) as database:
                present.append(database)
                for name in wanted:
                    task = progress.add_task(name, total=1)
                    results.extend(MEASURES[name.partition("/")[0]](database, effort))
                    progress.advance(task)
    about = {**report.machine(present), "rounds": effort.rounds, "quick": quick}
    report.show(results, console, about)
    if json_file:
        report.write_json(results, about, json_file)
    if plot:
        report.plot(results, plot)


if __name__ == "__main__":
    main()
