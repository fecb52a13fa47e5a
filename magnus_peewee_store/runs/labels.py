"""How lists of runs show names and values: short headings, and numbers to 6 significant digits."""

from collections import Counter
from typing import Any, List, Sequence

from magnus_peewee_store.runs.conditions import METRICS, PARAMS, without_number
from magnus_peewee_store.runs.listing import RunSummary


def all_names(found: Sequence[RunSummary], prefix: str) -> List[str]:
    """Return the names of all parameters or metrics, each with its prefix, in the order in which runs have them."""
    dictionaries = [run.params if prefix == PARAMS else run.metrics for run in found]
    return [f"{prefix}{name}" for name in dict.fromkeys(name for each in dictionaries for name in each)]


def headings(names: Sequence[str]) -> List[str]:
    """Return the names without their prefixes. The last part of a metric's name is enough if no other name ends in it.

    The number that `track_this(step=1, loss=...)` adds belongs to the last part.
    """
    texts = [_without_prefix(name) for name in names]
    starts = [without_number(text).rpartition(".")[0] for text in texts]
    last = [text[len(start) :].lstrip(".") or text for text, start in zip(texts, starts)]
    counts = Counter(last)
    return [
        short if name.startswith(METRICS) and counts[short] == 1 else text
        for name, text, short in zip(names, texts, last)
    ]


def rounded(value: Any) -> Any:
    """Return a value with its numbers rounded to 6 significant digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, list):
        return [rounded(each) for each in value]
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    return value


def _without_prefix(text: str) -> str:
    return next((text[len(prefix) :] for prefix in (PARAMS, METRICS) if text.startswith(prefix)), text)
