"""Test that the benchmark command works. The measured times are not tested."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import documents
import pytest

FOLDER = Path(__file__).parent


def test_benchmark_writes_a_table_json_and_a_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install '.[benchmark]'")
    json_file, plot = tmp_path / "results.json", tmp_path / "plot.png"
    assert documents.block("benchmark").endswith("python -m benchmarks\n")
    options = ["--quick", "--rounds", "1", "--only", "step/sqlite", "--json", str(json_file), "--plot", str(plot)]
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks", *options],
        cwd=FOLDER.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout
    assert "a step's six calls" in result.stdout and "raw sqlite3" in result.stdout
    text = json_file.read_text(encoding="utf-8")
    assert {each["against"]: len(each["samples"]) for each in json.loads(text)["comparisons"]} == {
        "raw sqlite3": 1,
        "raw sqlite3 and pydantic": 1,
        "SQLAlchemy's way": 1,
        "chunked-fs": 1,
        "file-system": 1,
    }
    assert platform.node() not in text and str(FOLDER.parent) not in text
    assert plot.read_bytes().startswith(b"\x89PNG")
