"""The command `python -m benchmarks`."""

import fnmatch
import sys
import tempfile
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks import parallel_workloads, process_workloads, report, search_workloads, workloads
from benchmarks.databases import DATABASES, RAM_DISK, Database, start_database
from benchmarks.heartbeats import heartbeats
from benchmarks.large_runs import large_runs
from benchmarks.results import Result
from benchmarks.timing import FULL, QUICK, Settings
from benchmarks.vanished_hosts import vanished_hosts
from tests.servers import why_missing

BENCHMARKS: Dict[str, Callable[[Database, Settings], Iterator[Result]]] = {
    "step": workloads.step,
    "parameters": workloads.parameters,
    "full-run-log": workloads.full_run_log,
    "growth": workloads.growth,
    "many-processes": workloads.many_processes,
    "heartbeats": heartbeats,
    "first-call": process_workloads.first_call,
    "pipeline": process_workloads.pipeline,
    "parallel": parallel_workloads.parallel,
    "runs": workloads.runs,
    "search": search_workloads.search_runs,
    "list-command": search_workloads.list_command,
    "data-frame": search_workloads.data_frame,
    "report": search_workloads.report_command,
    "large-runs": large_runs,
    "vanished-hosts": vanished_hosts,
}
FILE_WIDTH = 300  # Columns of output in a file, enough for a table row.
# On a RAM disk, the disk's wait does not hide what the store costs. Only a step is measured there.
NAMES = [f"{benchmark}/{database}" for benchmark in BENCHMARKS for database in DATABASES]
NAMES.append(f"step/{RAM_DISK}")


@click.command(help=f"Measure how fast the store is: {', '.join(BENCHMARKS)}, each on {', '.join(DATABASES)}.")
@click.option(
    "--only",
    metavar="PATTERN",
    default="*",
    help="Run only benchmarks with a matching name, for example 'step/*' or '*/sqlite'.",
)
@click.option("--rounds", type=click.IntRange(1), help="The number of rounds of each benchmark.")
@click.option(
    "--quick", is_flag=True, help="Use small sizes to check that the benchmarks work. The results mean little."
)
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write all samples to this file."
)
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Plot the cost of a step to this .png or .svg file."
)
def main(only: str, rounds: Optional[int], quick: bool, json_file: Optional[Path], plot: Optional[Path]) -> None:
    """Run the selected benchmarks and show their results."""
    names = fnmatch.filter(NAMES, only)
    if not names:
        raise click.BadParameter(
            f"No benchmark matches '{only}'. An example of a name is '{NAMES[0]}'.", param_hint="--only"
        )
    settings = QUICK if quick else FULL
    settings = settings._replace(rounds=rounds or settings.rounds)
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    results: List[Result] = []
    measured: List[Database] = []
    columns = (SpinnerColumn(finished_text="✓"), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for database_name in (RAM_DISK, *DATABASES):
            selected = [name for name in names if name.endswith(f"/{database_name}")]
            missing = why_missing(database_name) if selected and "sqlite" not in database_name else ""
            if missing:
                progress.console.print(f"[yellow]Skipped {', '.join(selected)}: {missing}[/]")
            if missing or not selected:
                continue
            with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder, start_database(
                database_name, Path(folder)
            ) as database:
                measured.append(database)
                for name in selected:
                    task = progress.add_task(name, total=1)
                    results.extend(BENCHMARKS[name.partition("/")[0]](database, settings))
                    progress.advance(task)
    metadata = {**report.machine(measured), "rounds": settings.rounds, "quick": quick}
    report.show(results, console, metadata)
    if json_file:
        report.write_json(results, metadata, json_file)
    if plot:
        report.plot(results, plot)


if __name__ == "__main__":
    main()
