"""Logs to write, as short as a test wants them."""

from typing import Any

from magnus.datastore import StepLog


def step(name: str, **attributes: Any) -> StepLog:
    """The log of a step by its internal name."""
    return StepLog(**{"name": name.rpartition(".")[2], "internal_name": name, **attributes})
