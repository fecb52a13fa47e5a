"""Check histories of concurrent reads and writes: each key is linearizable, and each write is atomic.

A key is an atomic register whose writes all have different values. Such a history is linearizable if and only if no two
values conflict (P. B. Gibbons, E. Korach: Testing Shared Memories, SIAM Journal on Computing 26, 1997, section 4).
"""

import bisect
import itertools
import math
from collections import defaultdict
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence

NEVER = math.inf


class Operation(NamedTuple):
    """A call that wrote or read some keys, between two readings of a monotonic clock.

    A write that ends at `NEVER` has an unknown outcome: it may take effect at any time after its start, or not at all.
    A retried write may take effect several times between its start and its end.
    """

    is_write: bool
    values: Dict[str, Optional[str]]  # by key; None before the first write
    start: float
    end: float = NEVER
    is_retried: bool = False


class Zone(NamedTuple):
    """The operations that write and read one value, by the two times that decide their place in any order."""

    first_end: float
    last_start: float
    operations: Sequence[Operation]


def find_violations(history: Sequence[Operation]) -> List[str]:
    """Return the violations of atomicity and linearizability, one text each.

    Raises:
        ValueError: If two writes write the same value to a key.
    """
    keys = sorted({key for operation in history for key in operation.values})
    history = [Operation(True, dict.fromkeys(keys), -math.inf, -math.inf), *history]
    writes: Dict[str, Dict[Optional[str], Operation]] = {key: {} for key in keys}
    reads: Dict[str, Dict[Optional[str], List[Operation]]] = {key: defaultdict(list) for key in keys}
    for operation in history:
        for key, value in operation.values.items():
            if not operation.is_write:
                reads[key][value].append(operation)
            elif value in writes[key]:
                raise ValueError(f"'{value}' is written to '{key}' twice.")
            else:
                writes[key][value] = operation
    found = [text for key in keys for text in _register_violations(key, writes[key], reads[key])]
    return found + [text for operation in history if not operation.is_write for text in _torn(operation, writes)]


def without_early_reads(history: Sequence[Operation]) -> List[Operation]:
    """Leave out of each read the values whose write had not ended when the read began."""
    ends = {(key, value): each.end for each in history if each.is_write for key, value in each.values.items()}
    return [
        each
        if each.is_write
        else each._replace(
            values={key: value for key, value in each.values.items() if ends.get((key, value), -math.inf) <= each.start}
        )
        for each in history
    ]


def _register_violations(
    key: str, writes: Dict[Optional[str], Operation], reads: Dict[Optional[str], List[Operation]]
) -> Iterator[str]:
    """Yield the violations of linearizability of one key."""
    for value, readers in reads.items():
        if value not in writes:
            yield f"'{key}': '{value}' is read but was never written: {readers[0]}"
        elif min(each.end for each in readers) < writes[value].start:
            yield f"'{key}': '{value}' is read before it is written: {min(readers, key=lambda each: each.end)}"
    zones = sorted(
        (zone for value, write in writes.items() for zone in _zones(write, reads.get(value, []))),
        key=lambda zone: zone.first_end,
    )
    ends = [zone.first_end for zone in zones]
    latest: List[Zone] = list(itertools.accumulate(zones, lambda a, b: max(a, b, key=lambda zone: zone.last_start)))
    for number, zone in enumerate(zones):
        # Two values conflict if each has an operation that ends before an operation of the other starts.
        count = min(bisect.bisect_left(ends, zone.last_start), number)
        if count and latest[count - 1].last_start > zone.first_end:
            yield f"'{key}': these cannot be ordered: {_shown(key, latest[count - 1])}; {_shown(key, zone)}"


def _zones(write: Operation, reads: List[Operation]) -> Iterator[Zone]:
    """Yield the zone of a value. While a retried write lasts, each effect that is seen has a zone."""
    repeated = [each for each in reads if write.is_retried and each.start < write.end]
    for each in repeated:
        yield _zone([write, each])
    last = [each for each in reads if not write.is_retried or each.start >= write.end]
    if last or write.end < NEVER:
        yield _zone([write, *last])


def _zone(operations: List[Operation]) -> Zone:
    return Zone(min(each.end for each in operations), max(each.start for each in operations), operations)


def _torn(read: Operation, writes: Dict[str, Dict[Optional[str], Operation]]) -> Iterator[str]:
    """Yield the pairs of keys that are torn: two writes wrote both keys, and the read saw one key of each write."""
    writers = {key: writes[key][value] for key, value in read.values.items() if value in writes[key]}
    for first, second in itertools.combinations(sorted(writers), 2):
        one, other = writers[first], writers[second]
        if one is not other and second in one.values and first in other.values:
            yield f"'{first}' and '{second}' are each read from half of a write: {read}"


def _shown(key: str, zone: Zone) -> str:
    write = zone.operations[0]
    first, last = min(zone.operations, key=lambda each: each.end), max(zone.operations, key=lambda each: each.start)
    return f"'{write.values[key]}', of which {first} ends first and {last} starts last"
