"""The command `python -m benchmarks`."""

import fnmatch
import sys
import tempfile
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks import lists, pipelines, report, steps, writers
from benchmarks.databases import PSYCOPG2, RAM_DISK, SERVERS, Database, start_database
from benchmarks.large_runs import large_runs
from benchmarks.timing import Comparison, Settings
from benchmarks.vanished_hosts import vanished_hosts
from tests.servers import why_missing

ON_ALL = ("sqlite", "postgresql", "mariadb")
ON_SQLITE = ("sqlite",)
BENCHMARKS: Dict[str, Callable[[Database, Settings], Iterator[Comparison]]] = {
    "step": steps.step,
    "parameters": steps.parameters,
    "full-run-log": steps.full_run_log,
    "many-processes": writers.many_processes,
    "heartbeats": writers.heartbeats,
    "first-call": pipelines.first_call,
    "pipeline": pipelines.pipeline,
    "parallel": pipelines.parallel,
    "newest-runs": lists.newest_runs,
    "runs-command": lists.runs_command,
    "search": lists.search_runs,
    "report": lists.report_command,
    "large-runs": large_runs,
    "vanished-hosts": vanished_hosts,
}
DATABASES = {
    "step": (*ON_ALL, PSYCOPG2, RAM_DISK),
    **dict.fromkeys(["heartbeats", "runs-command", "report", "large-runs"], ON_SQLITE),
    "vanished-hosts": ("postgresql", "mariadb"),
}
NAMES = [f"{benchmark}/{database}" for benchmark in BENCHMARKS for database in DATABASES.get(benchmark, ON_ALL)]
FILE_WIDTH = 300  # Columns of output in a file, enough for a table row.


@click.command(help=f"Measure how fast the store is. The benchmarks are: {', '.join(NAMES)}.")
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
def main(only: str, rounds: Optional[int], quick: bool) -> None:
    """Run the selected benchmarks and show their results."""
    names = fnmatch.filter(NAMES, only)
    if not names:
        raise click.BadParameter(
            f"No benchmark matches '{only}'. An example of a name is '{NAMES[0]}'.", param_hint="--only"
        )
    settings = Settings(rounds or (1 if quick else 5), quick)
    comparisons: List[Comparison] = []
    measured: List[Database] = []
    columns = (SpinnerColumn(finished_text="✓"), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for database_name in DATABASES["step"]:
            selected = [name for name in names if name.endswith(f"/{database_name}")]
            missing = why_missing(SERVERS[database_name].kind.kind) if database_name in SERVERS else ""
            if selected and missing:
                progress.console.print(f"[yellow]Skipped {', '.join(selected)}: {missing}[/]")
            if missing or not selected:
                continue
            with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder, start_database(
                database_name, Path(folder)
            ) as database:
                measured.append(database)
                for name in selected:
                    task = progress.add_task(name, total=1)
                    comparisons.extend(BENCHMARKS[name.partition("/")[0]](database, settings))
                    progress.advance(task)
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    report.show(comparisons, console, {**report.machine(measured), "rounds": settings.rounds, "quick": quick})


if __name__ == "__main__":
    main()
