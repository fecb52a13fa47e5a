"""TLS: what is encrypted, whose certificate is trusted, and which options contradict each other."""

from pathlib import Path
from typing import Any, Iterator

import pytest
from certificates import make_certificates, use_tls
from conftest import new_server
from servers import Database

from magnus_peewee_store import CannotConnectError, ConfigurationError, DBStore
from magnus_peewee_store.db.url import make_database

CIPHER = {
    "postgresql": "SELECT cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
    "mariadb": "SHOW STATUS LIKE 'Ssl_cipher'",
}
MYSQL_SCHEMES = ("mysql+pymysql", "mysqlconnector")


@pytest.fixture(scope="module")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an authority that has not signed the servers' certificate."""
    return make_certificates(tmp_path_factory.mktemp("other"))


@pytest.fixture(scope="module", params=["postgresql", "mariadb"])
def tls_server(request: pytest.FixtureRequest, certificates: Path) -> Iterator[Database]:
    """A database on a server that refuses connections without TLS."""
    server = new_server(request.param)
    try:
        database = server.database({"postgresql": "postgresql", "mariadb": "mysql"}[request.param])
        use_tls(server, certificates)
        yield database
    finally:
        server.remove()


def connect(database: Database, scheme: str, query: str, host: str = "localhost") -> str:
    """Use a store, and return the cipher of its connection."""
    address = database.url.partition("://")[2].replace("127.0.0.1", host)
    store = DBStore(connection_string=f"{scheme}://{address}{query}")
    try:
        store.database.retry(store.database.now)
        [row] = store.database.execute_sql(CIPHER[database.server.kind]).fetchall()
        return str(row[-1] or "")
    finally:
        store.close()


def skip_without(scheme: str, database: Database) -> None:
    if (database.server.kind == "mariadb") != (scheme in MYSQL_SCHEMES):
        pytest.skip("the driver is for the other server")
    if scheme == "mysqlconnector":
        pytest.importorskip("mysql.connector")


@pytest.mark.parametrize(
    ("scheme", "query", "host"),
    [
        *(
            (scheme, query, host)
            for scheme in ("postgresql+psycopg2", "postgresql+psycopg")
            for query, host in (
                ("?sslmode=verify-full&sslrootcert={ca}", "localhost"),
                ("?sslmode=verify-ca&sslrootcert={ca}", "127.0.0.1"),
                ("?sslmode=require", "127.0.0.1"),
            )
        ),
        *(
            (scheme, query, host)
            for scheme in MYSQL_SCHEMES
            for query, host in (
                ("?ssl_ca={ca}", "127.0.0.1"),
                ("?ssl_ca={ca}&ssl_verify_identity=true", "localhost"),
                ("?ssl_ca={ca}&ssl_mode=VERIFY_IDENTITY", "localhost"),
                ("?ssl_ca={ca}&ssl_mode=verify_ca", "127.0.0.1"),
                ("?ssl_ca={ca}&ssl=true", "127.0.0.1"),
                ("?ssl_ca={other}&ssl_verify_cert=false", "127.0.0.1"),
                ("?ssl_mode=REQUIRED", "127.0.0.1"),
                ("?ssl_mode=PREFERRED", "127.0.0.1"),
                ("?ssl=true", "127.0.0.1"),
            )
        ),
    ],
)
def test_connection_is_encrypted(
    tls_server: Database, certificates: Path, other_authority: Path, scheme: str, query: str, host: str
) -> None:
    skip_without(scheme, tls_server)
    query = query.format(ca=certificates / "ca.pem", other=other_authority / "ca.pem")
    assert connect(tls_server, scheme, query, host)


@pytest.mark.parametrize(
    ("scheme", "query", "host"),
    [
        *(
            (scheme, query, host)
            for scheme in ("postgresql+psycopg2", "postgresql+psycopg")
            for query, host in (
                ("?sslmode=verify-full&sslrootcert={ca}", "127.0.0.1"),
                ("?sslmode=verify-full&sslrootcert={other}", "localhost"),
                ("?sslmode=verify-full&sslrootcert={other}", "127.0.0.2,localhost"),  # The first refuses connections.
                ("?sslmode=verify-full&sslrootcert={ca}.missing", "localhost"),
            )
        ),
        *(
            (scheme, query, host)
            for scheme in MYSQL_SCHEMES
            for query, host in (
                ("?ssl_ca={other}", "localhost"),
                ("?ssl_ca={other}&ssl_mode=VERIFY_CA", "localhost"),
                ("?ssl_ca={other}&ssl=true", "localhost"),
                ("?ssl_ca={ca}&ssl_mode=VERIFY_IDENTITY", "127.0.0.1"),
                ("?ssl_ca={ca}&ssl_verify_identity=true", "127.0.0.1"),
            )
        ),
    ],
)
def test_untrusted_certificate_fails_at_once_with_the_reason(
    tls_server: Database, certificates: Path, other_authority: Path, scheme: str, query: str, host: str
) -> None:
    skip_without(scheme, tls_server)
    query = query.format(ca=certificates / "ca.pem", other=other_authority / "ca.pem")
    with pytest.raises(
        CannotConnectError, match="certificate.* Check the host name and the file of the CA"
    ) as exc_info:
        connect(tls_server, scheme, query, host)
    assert "gave up after" not in str(exc_info.value)


@pytest.mark.parametrize(
    ("scheme", "query"),
    [
        ("postgresql+psycopg2", "?sslmode=require"),
        ("postgresql+psycopg", "?sslmode=require"),
        ("mysql+pymysql", "?ssl_mode=REQUIRED"),
        ("mysql+pymysql", "?ssl=true"),
        ("mysql+pymysql", "?ssl_ca={ca}"),
    ],
)
def test_server_without_tls_is_refused_at_once(
    scheme: str, query: str, server_databases: Any, certificates: Path
) -> None:
    database = server_databases(scheme)
    if database.server.kind == "mariadb" and database.sql("SELECT @@have_ssl") != [("DISABLED",)]:
        pytest.skip("this server offers TLS")
    with pytest.raises(CannotConnectError, match="(?i)ssl|tls") as exc_info:
        connect(database, scheme, query.format(ca=certificates / "ca.pem"))
    assert "gave up after" not in str(exc_info.value)


@pytest.mark.parametrize("query", ["?ssl_mode=DISABLED", "?ssl=false", "?ssl_disabled=true"])
@pytest.mark.parametrize("scheme", MYSQL_SCHEMES)
def test_disabled_mode_does_not_encrypt(tls_server: Database, scheme: str, query: str) -> None:
    skip_without(scheme, tls_server)
    with pytest.raises(CannotConnectError, match="insecure transport|Access denied"):
        connect(tls_server, scheme, query)


@pytest.mark.parametrize(
    ("query", "advice"),
    [
        ("ssl_mode=verify-full", "ssl_mode is one of DISABLED, PREFERRED, REQUIRED, VERIFY_CA, VERIFY_IDENTITY"),
        ("ssl=maybe", "ssl is true or false"),
        ("ssl=true&ssl_mode=REQUIRED", "Write ssl_mode alone"),
        ("ssl_mode=VERIFY_CA", "only with ssl_ca"),
        ("ssl_verify_identity=true", "only with ssl_ca"),
        ("ssl_mode=REQUIRED&ssl_ca={ca}", "Write ssl_mode=VERIFY_CA or VERIFY_IDENTITY"),
        ("ssl_mode=DISABLED&ssl_ca={ca}", "Write ssl_mode=VERIFY_CA or VERIFY_IDENTITY"),
        ("ssl_ca={ca}.missing", "The file that ssl_ca names does not exist"),
    ],
)
def test_contradictory_tls_options_raise(certificates: Path, query: str, advice: str) -> None:
    with pytest.raises(ConfigurationError, match=advice) as exc_info:
        make_database(f"mysql://scott:tiger@db.example.com/runs?{query.format(ca=certificates / 'ca.pem')}")
    assert "tiger" not in str(exc_info.value) and "mysql://scott:***@" in str(exc_info.value)
