"""Test that processes see atomic, linearizable values through faults, and test the checker that decides it."""

import contextlib
import functools
import itertools
import os
import random
import time
from typing import Any, Callable, Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Set, Tuple

import pytest
from clients import Trial, start_trial
from conftest import CLUSTERS, SqliteFile, new_server
from histories import NEVER, Operation, find_violations, without_early_reads
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import Database
from test_clusters import ClusterDatabase, start_pair
from test_faults import Proxy

from magnus_peewee_store import DBStore
from magnus_peewee_store.db import base

SECONDS = float(os.environ.get("HISTORY_SECONDS", "3"))  # for each database


# The checker, on histories written by hand


def write(start: float, end: float, is_retried: bool = False, **values: str) -> Operation:
    return Operation(True, dict(values), start, end, is_retried)


def read(start: float, end: float, **values: Optional[str]) -> Operation:
    return Operation(False, values, start, end)


ACCEPTED = {
    "empty": [],
    "read before the first write": [read(0, 1, x=None)],
    "read after a write": [write(0, 1, x="1"), read(2, 3, x="1")],
    "concurrent read of the old value": [write(0, 5, x="1"), read(1, 2, x=None)],
    "concurrent read of the new value": [write(0, 5, x="1"), read(1, 2, x="1")],
    "concurrent writes in one order": [write(0, 5, x="1"), write(0, 5, x="2"), read(6, 7, x="1")],
    "concurrent writes in the other order": [write(0, 5, x="1"), write(0, 5, x="2"), read(6, 7, x="2")],
    "unknown write that never happens": [write(0, NEVER, x="1"), read(8, 9, x=None)],
    "unknown write that happens late": [write(0, NEVER, x="1"), read(5, 6, x=None), read(8, 9, x="1")],
    "unknown write after a newer one": [
        write(0, NEVER, x="1"),
        write(2, 3, x="2"),
        read(4, 5, x="2"),
        read(8, 9, x="1"),
    ],
    "retried write that is seen twice": [
        write(0, 9, x="1", is_retried=True),
        read(1, 2, x="1"),
        write(3, 4, x="2"),
        read(5, 6, x="2"),
        read(7, 8, x="1"),
    ],
    "whole writes of two keys": [write(0, 1, x="1", y="1"), read(2, 3, x="1", y="1")],
    "one of two keys written again": [write(0, 1, x="1", y="1"), write(2, 3, x="2"), read(4, 5, x="2", y="1")],
}

REJECTED = {
    "stale read": [write(0, 1, x="1"), write(2, 3, x="2"), read(4, 5, x="1")],
    "stale read of nothing": [write(0, 1, x="1"), read(2, 3, x=None)],
    "stale read beside a read of the new value": [write(0, 9, x="1"), read(1, 2, x="1"), read(3, 4, x=None)],
    "lost write": [write(0, 1, x="1"), write(2, 3, x="2"), read(4, 5, x="1"), write(6, 7, x="3"), read(8, 9, x="3")],
    "lost write that others have read": [write(0, 1, x="1"), read(2, 3, x="1"), read(4, 5, x=None)],
    "read from the future": [read(0, 1, x="1"), write(2, 3, x="1")],
    "read of what nobody wrote": [write(0, 1, x="1"), read(2, 3, x="2")],
    "reordered writes": [write(0, 1, x="1"), write(2, 3, x="2"), read(2, 5, x="2"), read(6, 7, x="1")],
    "writes in two orders": [
        write(0, 9, x="1"),
        write(0, 9, x="2"),
        read(1, 2, x="1"),
        read(3, 4, x="2"),
        read(5, 6, x="1"),
    ],
    "unknown write that is seen and gone": [write(0, NEVER, x="1"), read(1, 2, x="1"), read(3, 4, x=None)],
    "retried write that is seen again after its end": [
        write(0, 3, x="1", is_retried=True),
        read(1, 2, x="1"),
        write(4, 5, x="2"),
        read(6, 7, x="1"),
    ],
    "first half of a write": [write(0, 9, x="1", y="1"), read(1, 2, x="1", y=None)],
    "second half of a write": [write(0, 9, x="1", y="1"), read(1, 2, x=None, y="1")],
    "halves of two writes": [write(0, 9, x="1", y="1"), write(0, 9, x="2", y="2"), read(1, 2, x="1", y="2")],
    "half of an unknown write": [write(0, NEVER, x="1", y="1"), read(1, 2, x="1", y=None)],
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_checker_accepts(case: str) -> None:
    assert find_violations(ACCEPTED[case]) == []


@pytest.mark.parametrize("case", REJECTED)
def test_checker_rejects(case: str) -> None:
    assert find_violations(REJECTED[case]) != []


def test_early_reads_are_left_out_of_a_history() -> None:
    old, new, early = write(0, 1, x="1", y="1"), write(2, 5, x="2"), read(3, 4, x="2", y="1")
    assert without_early_reads([old, new, early]) == [old, new, read(3, 4, y="1")]
    late = read(6, 7, x="2", y="1")
    assert without_early_reads([old, new, late]) == [old, new, late]


def test_checker_needs_unique_values() -> None:
    with pytest.raises(ValueError, match="'1' is written to 'x' twice"):
        find_violations([write(0, 1, x="1"), write(2, 3, x="1")])


# The checker, on generated histories


@st.composite
def any_histories(draw: Any) -> List[Operation]:
    """Return a short history of one key, which may have violations."""
    operations = []
    for number in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, 12)) + number / 100  # No two times are equal.
        end = start + draw(st.integers(0, 8)) + 0.5
        if draw(st.booleans()):
            is_unknown, is_retried = draw(st.booleans()), draw(st.booleans())
            operations.append(write(start, NEVER if is_unknown else end, is_retried, x=str(number)))
        else:
            operations.append(read(start, end, x=draw(st.sampled_from([None, *"012345"]))))
    return operations


def is_possible(history: List[Operation]) -> bool:
    """Decide by trying every order of the operations. This is slow but needs no theory."""
    seen: Set[Tuple[FrozenSet[int], Optional[str]]] = set()

    def search(remaining: FrozenSet[int], value: Optional[str]) -> bool:
        if all(history[number].end == NEVER for number in remaining):
            return True
        if (remaining, value) in seen:
            return False
        seen.add((remaining, value))
        first_end = min(history[number].end for number in remaining)
        for number in remaining:
            operation = history[number]
            if operation.start > first_end:
                continue
            if operation.is_write:
                if operation.is_retried and search(remaining, operation.values["x"]):
                    return True
                if search(remaining - {number}, operation.values["x"]):
                    return True
            elif operation.values["x"] == value and search(remaining - {number}, value):
                return True
        return False

    return search(frozenset(range(len(history))), None)


@settings(max_examples=500)
@given(any_histories())
def test_checker_agrees_with_a_search_of_all_orders(history: List[Operation]) -> None:
    assert (find_violations(history) == []) == is_possible(history)


KEYS = ("x", "y", "z")


class Register(NamedTuple):
    """The history of a real atomic register for each key, and when each write took effect."""

    history: List[Operation]
    effects: Dict[int, List[int]]  # by the write's number in the history


@st.composite
def registers(draw: Any) -> Register:
    """Apply operations one after the other. Each takes effect at one time between its start and its end.

    A retried write takes effect twice, and a write with an unknown outcome once or never.
    """
    events = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["read", "write", "retried", "unknown", "never"]),
                st.sets(st.sampled_from(KEYS), min_size=1),
                st.integers(1, 30),
                st.integers(1, 30),
                st.integers(1, 60),
            ),
            min_size=1,
            max_size=15,
        )
    )
    effects: Dict[int, List[int]] = {}
    for number, (kind, _, _, _, delay) in enumerate(events):
        first = number * 10
        effects[number] = [] if kind == "never" else [first, first + 2 * delay + 1] if kind == "retried" else [first]
    state: Dict[str, Optional[str]] = dict.fromkeys(KEYS)
    history: Dict[int, Operation] = {}
    for _, number in sorted((moment, number) for number, moments in effects.items() for moment in moments):
        kind, keys, before, after, _ = events[number]
        # Fractions, so that no two times are equal.
        start, end = effects[number][0] - before + number / 100, effects[number][-1] + after + number / 100 + 0.001
        if kind == "read":
            history[number] = read(start, end, **{key: state[key] for key in keys})
        else:
            state.update(dict.fromkeys(keys, str(number)))
            values = dict.fromkeys(keys, str(number))
            history[number] = write(start, NEVER if kind == "unknown" else end, kind == "retried", **values)
    for number, (kind, keys, before, _, _) in enumerate(events):
        if kind == "never":
            history[number] = write(number * 10 - before, NEVER, **dict.fromkeys(keys, str(number)))
    return Register([history[number] for number in range(len(events))], effects)


@settings(max_examples=200)
@given(registers())
def test_checker_accepts_atomic_registers(register: Register) -> None:
    assert find_violations(register.history) == []


def acknowledged_writes(history: List[Operation]) -> List[Operation]:
    return [each for each in history if each.is_write and each.end < NEVER]


AFTERWARDS = 10_000


def add_stale_read(history: List[Operation], number: int) -> Optional[Operation]:
    """Return a read, after everything, of a value that was overwritten by a write which began later."""
    writes = acknowledged_writes(history)
    pairs = [
        (key, old.values[key])
        for old, new in itertools.permutations(writes, 2)
        for key in KEYS
        if old.end < new.start and key in old.values and key in new.values
    ]
    if not pairs:
        return None
    key, value = pairs[number % len(pairs)]
    return read(AFTERWARDS, AFTERWARDS + 1, **{key: value})


def add_lost_write(history: List[Operation], number: int) -> Optional[Operation]:
    """Return a read of nothing, after everything, of a key with an acknowledged write."""
    keys = sorted({key for each in acknowledged_writes(history) for key in each.values})
    return read(AFTERWARDS, AFTERWARDS + 1, **{keys[number % len(keys)]: None}) if keys else None


def add_read_from_the_future(history: List[Operation], number: int) -> Optional[Operation]:
    """Return a read, before everything, of a value that is written later."""
    values = sorted({(key, str(value)) for each in history if each.is_write for key, value in each.values.items()})
    return read(-AFTERWARDS - 1, -AFTERWARDS, **dict([values[number % len(values)]])) if values else None


def add_half_a_write(history: List[Operation], number: int) -> Optional[Operation]:
    """Return a concurrent read that sees one key of a write, and another as it was before all writes."""
    writes = [each for each in history if each.is_write and len(each.values) > 1]
    if not writes:
        return None
    chosen = writes[number % len(writes)]
    half, other, *_ = sorted(chosen.values)
    return read(chosen.start, NEVER, **{half: chosen.values[half], other: None})


MUTATIONS = [add_stale_read, add_lost_write, add_read_from_the_future, add_half_a_write]


@pytest.mark.parametrize("mutate", MUTATIONS)
@settings(max_examples=100)
@given(register=registers(), number=st.integers(0, 1000))
def test_checker_rejects_a_violation_in_a_history(
    mutate: Callable[[List[Operation], int], Optional[Operation]], register: Register, number: int
) -> None:
    violation = mutate(register.history, number)
    if violation:
        assert find_violations([*register.history, violation]) != []


# The store


Fault = Callable[[Trial], None]


class Subject(NamedTuple):
    """A database: the connection strings of its nodes, and the faults of its servers by name."""

    urls: List[str]
    faults: Dict[str, Fault]
    shows_early_values: bool = False
    """Whether one node shows a value whose write has not ended, and then another node does not show it yet."""


@contextlib.contextmanager
def sqlite(request: pytest.FixtureRequest) -> Iterator[Subject]:
    yield Subject([SqliteFile(request.getfixturevalue("tmp_path")).url], {})


@contextlib.contextmanager
def postgresql(request: pytest.FixtureRequest) -> Iterator[Subject]:
    with start_pair("postgresql+psycopg") as pair:
        yield Subject(
            [pair.url],
            {
                "server crashes": lambda trial: pair.primary.restart(immediate=True),
                "failovers": lambda trial: pair.fail_over(),
                "server restarts": lambda trial: pair.primary.restart(),
            },
        )


@contextlib.contextmanager
def mariadb(request: pytest.FixtureRequest) -> Iterator[Subject]:
    server = new_server("mariadb")
    try:
        yield Subject(
            [server.database("mysql+pymysql").url],
            {
                "server crashes": lambda trial: server.restart(immediate=True),
                "server restarts": lambda trial: server.restart(),
            },
        )
    finally:
        server.remove()


@contextlib.contextmanager
def cluster(request: pytest.FixtureRequest, kind: str) -> Iterator[Subject]:
    nodes = ClusterDatabase(request.getfixturevalue("clusters")(kind))

    def crash_node(trial: Trial) -> None:
        database, survivor, _ = random.sample(nodes.databases, 3)
        database.server.stop(immediate=True)
        try:
            survivor.server.wait_for_cluster_of(2)
            trial.wait_for_operations(5, except_url=database.url)
        finally:
            database.server.start()

    try:
        yield Subject(nodes.urls, {"node crashes": crash_node}, shows_early_values=kind == "mysql_group")
    finally:
        nodes.databases[0].drop()


SUBJECTS: Dict[str, Callable[[pytest.FixtureRequest], Any]] = {
    "sqlite": sqlite,
    "postgresql": postgresql,
    "mariadb": mariadb,
    **{kind: functools.partial(cluster, kind=kind) for kind in CLUSTERS},
}


@pytest.mark.parametrize("subject_name", SUBJECTS)
def test_values_are_linearizable_through_faults(
    request: pytest.FixtureRequest, subject_name: str, record_property: Callable[[str, object], None]
) -> None:
    with SUBJECTS[subject_name](request) as subject, start_trial(subject.urls) as trial:
        trial.wait_for_operations(5)
        end = time.monotonic() + SECONDS
        faults = itertools.cycle(subject.faults.items())
        while time.monotonic() < end or not subject.faults.keys() <= trial.faults.keys():
            trial.kill_client()
            trial.wait_for_operations(5)
            for name, inflict in itertools.islice(faults, 1):
                inflict(trial)
                trial.faults[name] += 1
                trial.wait_for_operations(5)
        trial.stop()
        trial.read_all(subject.urls)
    history = without_early_reads(trial.history) if subject.shows_early_values else trial.history
    violations = find_violations(history)
    record_property("summary", f"{subject_name}: {trial.summary()}, {len(violations)} violations")
    assert not violations, f"{len(violations)} violations, the first:\n{violations[0]}"


@pytest.mark.parametrize("scheme", ["postgresql+psycopg", "mysql+pymysql"])
def test_write_with_lost_acknowledgement_may_be_seen_again_after_a_newer_value(
    scheme: str, server_databases: Callable[[str], Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the store does not promise: the retry cannot know that the write was done and overwritten."""
    database = server_databases(scheme)
    proxy = Proxy(database.server.port)
    store = DBStore(connection_string=database.url)
    proxied_store = DBStore(connection_string=proxy.url(database))
    history: List[Operation] = []

    def read_value() -> None:
        start = time.monotonic()
        value = store.get_parameters("run")["x"]
        history.append(read(start, time.monotonic(), x=value))

    def write_value(store: DBStore, value: str, is_retried: bool) -> None:
        start = time.monotonic()
        store.set_parameters("run", {"x": value})
        history.append(write(start, time.monotonic(), is_retried, x=value))

    def before_retry(seconds: float) -> None:
        monkeypatch.undo()
        read_value()
        write_value(store, "newer", is_retried=False)
        read_value()

    try:
        store.create_run_log("run")
        proxied_store.get_run_log_by_id("run")
        proxy.drop_answer_after = b"INSERT"
        monkeypatch.setattr(base.time, "sleep", before_retry)
        write_value(proxied_store, "older", is_retried=True)
        read_value()
    finally:
        store.close()
        proxied_store.close()
        proxy.close()
        database.sql("DROP TABLE IF EXISTS db_log")
    assert [each.values["x"] for each in history if not each.is_write] == ["older", "newer", "older"]
    assert find_violations(history) == []
    assert find_violations([each._replace(is_retried=False) for each in history]) != []
