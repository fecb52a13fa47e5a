"""How fast the store is: beside the raw drivers, magnus' own stores, and the older SQLAlchemy extension's way."""

import sys
from pathlib import Path

# The tests have helpers that start servers and many processes.
sys.path.append(str(Path(__file__).parents[1] / "tests"))
