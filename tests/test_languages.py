"""Servers whose messages are not English: the same errors are transient, and the same advice is given."""

import locale
from contextlib import suppress
from typing import Any, Iterator, List

import pytest
from conftest import SERVERS, new_server, new_store
from roles import Role
from servers import OWNER, PASSWORD, Database
from test_faults import DEADLINE, WaitMessages, in_background, wait_messages  # noqa: F401 - a fixture

from magnus_peewee_store import CannotConnectError, DBStore, PrivilegeError, create_tables, runs
from magnus_peewee_store.db.schema import schema_of

CONNECTIONS = 12
# PostgreSQL speaks the LANGUAGE of its environment, unless its locale is C. So the system needs no German locale.
GERMAN = {"postgresql": "C.UTF-8", "mariadb": "de_DE", "mysql": "de_DE"}


@pytest.fixture(scope="module", params=SERVERS)
def german_database(request: pytest.FixtureRequest) -> Iterator[Database]:
    kind = SERVERS[request.param]
    server = new_server(kind, max_connections=str(CONNECTIONS), lc_messages=GERMAN[kind])
    try:
        database = server.database(request.param)
        if not is_german(database):
            pytest.skip(f"The German messages of {kind} are not installed")
        create_tables(database.url)
        yield database
    finally:
        server.remove()


def is_german(database: Database) -> bool:
    try:
        database.sql("SELEKT")
    except Exception as error:
        return "fehler" in str(error).lower()
    raise AssertionError("SELEKT is a statement")


@pytest.fixture
def german_role(german_database: Database) -> Iterator[Role]:
    with new_store(german_database.url) as store:
        store.create_run_log("run")
    role = Role(german_database)
    yield role
    role.drop()
    german_database.sql("DELETE FROM db_log")


def read(store: DBStore) -> None:
    store.get_run_log_by_id("run")


def write(store: DBStore) -> None:
    store.set_parameters("run", {"x": 1})


def delete(store: DBStore) -> None:
    list(runs.delete_runs(store, ["run"]))


@pytest.mark.parametrize(
    ("granted", "call", "grant"),
    [
        ("", read, "GRANT .*SELECT.* ON "),
        ("SELECT", write, "GRANT (INSERT, UPDATE|INSERT|UPDATE) ON .*db_log"),
        ("SELECT, INSERT, UPDATE", delete, "GRANT DELETE ON .*db_log"),
    ],
)
def test_german_privilege_error_contains_the_grant(german_role: Role, granted: str, call: Any, grant: str) -> None:
    if granted:
        german_role.grant(f"{granted} ON db_log")
    with new_store(german_role.url) as store, pytest.raises(
        PrivilegeError, match=f"Have an administrator run: {grant}"
    ):
        call(store)


def test_german_error_names_the_right_to_create_indexes(german_role: Role) -> None:
    german_role.grant("SELECT, INSERT, UPDATE ON db_log")
    with new_store(german_role.database.url) as store:
        indexes = store.database.retry(store.database.get_indexes, "db_log")
        [name] = [index.name for index in indexes if index.columns == ["run_id", "created_at"]]
        store.database.retry(schema_of(store.database).drop_index, name)
    grant = "INDEX|ALTER" if german_role.is_mysql else f"{OWNER} TO {german_role.name}"
    with pytest.raises(PrivilegeError, match=f"Have an administrator run: GRANT ({grant})"):
        create_tables(german_role.url)
    create_tables(german_role.database.url)


def test_german_too_many_clients_is_retried(german_database: Database, wait_messages: WaitMessages) -> None:  # noqa: F811
    stores: List[DBStore] = []
    try:
        with suppress(CannotConnectError):
            for number in range(2 * CONNECTIONS):
                stores.append(DBStore(connection_string=german_database.url, retry_timeout=0))
                stores[-1].create_run_log(f"run {number}")
        assert len(stores) < 2 * CONNECTIONS
        with new_store(german_database.url, retry_timeout=DEADLINE) as store:
            with in_background(lambda: store.create_run_log("last")):
                assert wait_messages.has_message.wait(DEADLINE)
                stores[0].close()
            assert store.get_run_log_by_id("last").run_id == "last"
    finally:
        for store in stores:
            store.close()
    german_database.sql("DELETE FROM db_log")


def test_server_that_is_down_is_retried_in_a_german_process(
    german_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    german_database.server.stop()
    monkeypatch.setenv("LANGUAGE", "de")
    language = locale.setlocale(locale.LC_ALL)
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
    try:
        with new_store(german_database.url, retry_timeout=1) as store, pytest.raises(
            CannotConnectError, match="gave up after retry_timeout, 1 s"
        ):
            store.create_run_log("run")
    finally:
        locale.setlocale(locale.LC_ALL, language)
        german_database.server.start()


def test_german_wrong_password_is_retried_on_postgresql_alone(german_database: Database) -> None:
    """libpq reports a failed connection without an error code. The codes of MariaDB are the same in every language."""
    url = german_database.url.replace(PASSWORD, "lion")
    with new_store(url, retry_timeout=1) as store, pytest.raises(CannotConnectError) as error:
        store.create_run_log("run")
    assert ("gave up" in str(error.value)) == (german_database.server.dialect == "postgresql")
