"""Test that the benchmarks work. The measured times are not tested."""

import platform
import subprocess
import sys
from pathlib import Path
from typing import Tuple

import documents

FOLDER = Path(__file__).parent


def run_benchmarks(*options: str) -> Tuple[int, str]:
    assert documents.block("benchmark").endswith("python -m benchmarks\n")
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks", *options],
        cwd=FOLDER.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    return result.returncode, result.stdout


def test_benchmarks_on_sqlite_print_a_table() -> None:
    # Not those that run many commands, which other tests run, too.
    code, output = run_benchmarks("--quick", "--only", "[!lprf]*/sqlite")
    assert code == 0, output
    cells = {tuple(cell.strip() for cell in line.split("|")[1:5:3]) for line in output.splitlines() if "|" in line}
    step = "a step's six calls, 10 steps in the run"
    others = ["raw sqlite3", "raw sqlite3 and pydantic", "SQLAlchemy's way", "chunked-fs", "file-system"]
    assert {against for workload, against in cells if workload == step} == set(others)
    assert ("4 processes, one run", "raw sqlite3") in cells
    assert platform.node() not in output and str(FOLDER.parent) not in output


def test_unknown_benchmark_is_an_error() -> None:
    code, output = run_benchmarks("--only", "stepp/*")
    assert code == 2
    assert "No benchmark matches 'stepp/*'" in output
