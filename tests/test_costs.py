"""Costs of calls, counted in statements, rows read and SQL compiled. Nothing is timed."""

from typing import Any, Callable, Dict, List

import peewee
import pytest
from conftest import SqliteFile
from logs import step
from magnus.datastore import BranchLog, RunLog

from magnus_peewee_store import DBStore, runs
from magnus_peewee_store.runs.summaries import iter_summaries


def statements_of(store: DBStore, call: Callable[[], Any]) -> List[str]:
    """Return the first word of each statement that a call sends."""
    statements: List[str] = []
    hooks = store.database.query_hooks
    hooks.append(lambda event: statements.append(event.sql.split()[0]))
    try:
        call()
    finally:
        hooks.clear()
    return statements


def step_calls(store: DBStore, name: str) -> Dict[str, Callable[[], Any]]:
    """Return the six calls that magnus makes to log a step."""
    return {
        "create": lambda: store.add_step_log(step(name), "run"),
        "get": lambda: store.get_step_log(name, "run"),
        "parameters": lambda: store.get_parameters("run"),
        "set": lambda: store.set_parameters("run", {"x": name}),
        "change": lambda: store.add_step_log(step(name, status="SUCCESS"), "run"),
        "get again": lambda: store.get_step_log(name, "run"),
    }


def log_step(store: DBStore, name: str) -> None:
    for call in step_calls(store, name).values():
        call()


def test_each_step_call_sends_one_statement(store: DBStore) -> None:
    store.create_run_log("run")
    store.set_parameters("run", {"x": "before"})
    sent = {name: statements_of(store, call) for name, call in step_calls(store, "step").items()}
    assert sent == {
        "create": ["INSERT"],
        "get": ["SELECT"],
        "parameters": ["SELECT"],
        "set": ["INSERT"],
        "change": ["INSERT"],
        "get again": ["SELECT"],
    }


@pytest.mark.parametrize("full", [False, True])
def test_get_run_log_sends_one_query(store: DBStore, full: bool) -> None:
    store.put_run_log(make_run_log("run", steps=3))
    assert statements_of(store, lambda: store.get_run_log_by_id("run", full=full)) == ["SELECT"]


def test_step_in_branch_is_written_in_one_statement(store: DBStore) -> None:
    store.create_run_log("run")
    store.add_step_log(step("map"), "run")
    store.add_branch_log(BranchLog(internal_name="map.1.5"), "run")
    assert statements_of(store, lambda: store.add_step_log(step("map.1.5.work"), "run")) == ["INSERT"]


def test_many_parameters_are_written_in_one_statement(store: DBStore) -> None:
    store.create_run_log("run")
    parameters = {f"parameter {number}": number for number in range(100)}
    assert statements_of(store, lambda: store.set_parameters("run", parameters)) == ["INSERT"]
    assert store.get_parameters("run") == parameters


@pytest.mark.parametrize("with_values", [True, False])
def test_ended_runs_are_summarized_in_one_query(store: DBStore, with_values: bool) -> None:
    for run_id in ("first", "second"):
        store.put_run_log(RunLog(run_id=run_id, status="SUCCESS", steps={"step": step("step", status="SUCCESS")}))
    for run_id in ("first", "second"):
        # Now the run's own row and its tag are not next to each other in the table.
        runs.tag_run(store, run_id, "best")
    assert statements_of(store, lambda: runs.summarize(store, ["first", "second"], with_values)) == ["SELECT"]


def test_list_without_values_reads_no_parameters(store: DBStore) -> None:
    store.put_run_log(make_run_log("run", steps=1))
    read: List[Any] = []
    hooks = store.database.query_hooks
    hooks.append(lambda event: read.extend(event.params))
    runs.summarize(store, ["run"], with_values=False)
    assert "Step" in read and "Parameter" not in read
    runs.summarize(store, ["run"])
    hooks.clear()
    assert "Parameter" in read


def test_several_batches_are_one_transaction(store: DBStore) -> None:
    store.create_run_log("run")
    parameters = {f"parameter {number}": str(number) * 60_000 for number in range(3)}

    def interrupt_third_insert(event: Any) -> None:
        if event.sql.startswith("INSERT"):
            inserts.append(event.sql)
        if len(inserts) == 3:
            raise KeyboardInterrupt

    inserts: List[str] = []
    hooks = store.database.query_hooks
    hooks.append(interrupt_third_insert)
    with pytest.raises(KeyboardInterrupt):
        store.set_parameters("run", parameters)
    hooks.clear()
    assert store.get_parameters("run") == {}
    store.set_parameters("run", parameters)
    assert store.get_parameters("run") == parameters


def test_without_json_support_each_row_is_one_statement(store: DBStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.create_run_log("run")
    monkeypatch.setattr(type(store.database), "has_json_rows", False)
    parameters = {f"parameter {number}": number for number in range(10)}
    assert statements_of(store, lambda: store.set_parameters("run", parameters)).count("INSERT") == 10
    assert store.get_parameters("run") == parameters


def test_repeated_call_compiles_no_sql(store: DBStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.create_run_log("run")
    log_step(store, "first")
    compiled = []
    compile_sql = peewee.Context.sql
    monkeypatch.setattr(peewee.Context, "sql", lambda self, node: (compiled.append(node), compile_sql(self, node))[1])
    log_step(store, "second")
    assert compiled == []
    store.get_run_log_by_id("run")
    assert compiled  # shows that a compilation would have been recorded


def make_run_log(run_id: str, steps: int) -> RunLog:
    names = [f"step {number}" for number in range(steps)]
    return RunLog(run_id=run_id, parameters={"x": "before"}, steps={name: step(name) for name in names})


def rows_read(store: DBStore, database: Any, call: Callable[[], Any]) -> int:
    """Return how many rows a call reads. For SQLite, return how many virtual machine instructions it executes."""
    log = store.database
    if isinstance(database, SqliteFile):
        instructions: List[None] = []
        connection: Any = log.connection()
        connection.set_progress_handler(lambda: instructions.append(None), 1)
        try:
            call()
        finally:
            connection.set_progress_handler(None, 1)
        return len(instructions)
    if "mysql" in database.url:
        status = f"{database.server.monitoring_schema}.session_status"
        counters = f"SELECT SUM(variable_value) FROM {status} WHERE variable_name LIKE %s"
        before, after = [int(log.execute_sql(counters, (name,)).fetchone()[0]) for name in ("Handler_read%",) * 2]
        counting_cost = after - before  # rows that the counting query reads
        call()
        return int(log.execute_sql(counters, ("Handler_read%",)).fetchone()[0]) - after - counting_cost
    counters = (
        "SELECT seq_tup_read + (SELECT SUM(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = 'db_log') "
        "FROM pg_stat_user_tables WHERE relname = 'db_log'"
    )

    def read() -> int:
        log.execute_sql("SELECT pg_stat_force_next_flush()")
        return int(log.execute_sql(counters).fetchone()[0])

    before = read()
    call()
    return read() - before


def rows_read_again(store: DBStore, database: Any, call: Callable[[], Any]) -> int:
    """Return how many rows a call reads after its queries were compiled."""
    call()
    count = rows_read(store, database, call)
    assert count > 0
    return count


def test_cost_of_a_step_does_not_depend_on_table_size(store: DBStore, database: Any) -> None:
    for number in range(20):
        store.put_run_log(make_run_log(f"other {number}", steps=50))
    store.put_run_log(make_run_log("run", steps=10))
    log_step(store, "warm")
    few = rows_read(store, database, lambda: log_step(store, "early"))
    store.put_run_log(make_run_log("run", steps=3000))
    many = rows_read(store, database, lambda: log_step(store, "late"))
    assert few > 0
    assert many <= 1.1 * few + 2


def test_cost_of_a_header_does_not_depend_on_the_steps(store: DBStore, database: Any) -> None:
    for number in range(20):
        store.put_run_log(make_run_log(f"other {number}", steps=50))
    store.put_run_log(make_run_log("run", steps=10))

    def read_header() -> None:
        list(iter_summaries(store, ["run"], with_values=False, with_steps=False))

    few = rows_read_again(store, database, read_header)
    store.put_run_log(make_run_log("run", steps=3000))
    many = rows_read_again(store, database, read_header)
    assert many <= 1.1 * few + 2


def test_cost_of_reading_a_run_does_not_depend_on_other_runs(store: DBStore, database: Any) -> None:
    store.put_run_log(make_run_log("run", steps=10))
    few = rows_read_again(store, database, lambda: runs.read_run(store, "run"))
    for number in range(300):
        store.put_run_log(make_run_log(f"other {number}", steps=1))
    many = rows_read_again(store, database, lambda: runs.read_run(store, "run"))
    assert many <= 1.1 * few + 2
