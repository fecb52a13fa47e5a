"""Test servers and databases whose settings differ from the usual ones."""

from contextlib import closing
from typing import Dict, Iterator

import pytest
from conftest import SERVERS, new_server, new_store
from logs import step
from servers import OWNER, Database, Server

from magnus_peewee_store import ConfigurationError, DBStore, InvalidValueError, create_tables

POSTGRESQL = [scheme for scheme in SERVERS if scheme.startswith("postgresql")]
MYSQL = [scheme for scheme in SERVERS if scheme.startswith("mysql")]


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Server]:
    server = new_server("postgresql")
    yield server
    server.remove()


def encoded_database(server: Server, scheme: str, encoding: str) -> Database:
    database = server.database(scheme)
    server.drop_database(database.name)
    server.sql(f"CREATE DATABASE {database.name} OWNER {OWNER} ENCODING '{encoding}' TEMPLATE template0")
    return database


@pytest.mark.parametrize("scheme", POSTGRESQL)
def test_database_without_an_encoding_holds_any_text(postgresql: Server, scheme: str) -> None:
    with new_store(encoded_database(postgresql, scheme, "SQL_ASCII").url) as store:
        store.create_run_log("run")
        store.add_step_log(step("Größe \u2192"), "run")
        store.set_parameters("run", {"x": "Größe \u2192"})
        log = store.get_run_log_by_id("run", full=True)
    assert (list(log.steps), log.parameters) == (["Größe \u2192"], {"x": "Größe \u2192"})


@pytest.mark.parametrize("scheme", POSTGRESQL)
def test_latin1_database_says_what_it_cannot_store(postgresql: Server, scheme: str) -> None:
    with new_store(encoded_database(postgresql, scheme, "LATIN1").url) as store:
        store.create_run_log("run")
        store.add_step_log(step("Größe"), "run")
        with pytest.raises(InvalidValueError, match="0xe2 0x86 0x92.*LATIN1.*ENCODING 'UTF8'"):
            store.add_step_log(step("\u2192"), "run")
        assert list(store.get_run_log_by_id("run", full=True).steps) == ["Größe"]


@pytest.mark.parametrize("scheme", POSTGRESQL)
def test_postgresql_error_names_the_limit_of_names(postgresql: Server, scheme: str) -> None:
    name = "".join(chr(0x4E00 + 37 * number % 20_000) for number in range(1000))  # 3,000 bytes that do not compress
    with new_store(postgresql.database(scheme).url) as store:
        store.create_run_log("run")
        with pytest.raises(InvalidValueError, match="more than 2,700 bytes"):
            store.add_step_log(step(name), "run")
        with pytest.raises(InvalidValueError, match="more than 2,700 bytes"):
            store.create_run_log(name)


@pytest.mark.parametrize("scheme", POSTGRESQL)
def test_schema_with_a_percent_sign_is_refused(postgresql: Server, scheme: str) -> None:
    with pytest.raises(ConfigurationError, match="must not contain a %"):
        create_tables(f"{postgresql.database(scheme).url}?schema=100%25")


@pytest.mark.parametrize("settings", [{"sql_select_limit": "2"}, {"sql_mode": "ORACLE"}, {"sql_mode": "ANSI"}])
@pytest.mark.parametrize("scheme", MYSQL)
def test_global_settings_change_no_answer(scheme: str, settings: Dict[str, str]) -> None:
    server = new_server(SERVERS[scheme])
    try:
        database = server.database(scheme)
        for name, value in settings.items():
            if SERVERS[scheme] == "mysql" and value == "ORACLE":
                pytest.skip("MySQL has no such mode")
            server.sql(f"SET GLOBAL {name} = {value}")
        with closing(DBStore(connection_string=database.url)) as store:
            store.create_run_log("run")
            for number in range(5):
                store.add_step_log(step(f"s{number}"), "run")
            store.set_parameters("run", {"a": 'q"x', "b": 2, "c": 3})
            store.update_run_log_status("run", "SUCCESS")
            log = store.get_run_log_by_id("run", full=True)
        assert (log.status, len(log.steps), log.parameters) == ("SUCCESS", 5, {"a": 'q"x', "b": 2, "c": 3})
    finally:
        server.remove()
