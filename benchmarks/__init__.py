"""Benchmarks of the store, compared with raw drivers, the stores of magnus, and the older SQLAlchemy extension."""

import sys
from pathlib import Path

# The tests have helpers that start servers and many processes.
sys.path.append(str(Path(__file__).parents[1] / "tests"))
