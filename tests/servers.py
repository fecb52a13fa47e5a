"""Private database servers that the tests start from installed binaries, and remove again."""

import glob
import itertools
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

DEADLINE = 60.0
POLL_INTERVAL = 0.05
OWNER, PASSWORD = "scott", "tiger"

BINARIES = {
    "postgresql": ("PostgreSQL's server", "postgresql", ["initdb", "postgres", "pg_basebackup"]),
    "mariadb": ("MariaDB's server", "mariadb-server", ["mariadbd", "mariadb-install-db"]),
    "galera": ("Galera", "mariadb-server galera-4 rsync lsof", ["mariadbd", "mariadb-install-db", "rsync", "lsof"]),
}
GALERA_LIBRARIES = glob.glob("/usr/lib*/galera*/libgalera_smm.so")
# Debian keeps PostgreSQL's binaries, a folder a version, off the PATH; an ordinary user's PATH lacks /usr/sbin.
POSTGRESQL_FOLDERS = sorted(
    glob.glob("/usr/lib/postgresql/*/bin"), key=lambda folder: float(Path(folder).parent.name), reverse=True
)
SEARCH_PATH = os.pathsep.join([*POSTGRESQL_FOLDERS, os.environ.get("PATH", os.defpath), "/usr/sbin"])
ENVIRONMENT = {**os.environ, "PATH": SEARCH_PATH, "LC_ALL": "C"}

# A server dies with the thread that started it: this one lasts as long as the tests do.
_starter = ThreadPoolExecutor(max_workers=1)
# Below the ports that the system gives to clients: nobody takes a server's port while it restarts.
_ports = itertools.count(random.randrange(10_000, 30_000))


def why_missing(kind: str) -> str:
    """What to install before a server of this kind can start, "" if nothing."""
    title, packages, binaries = BINARIES[kind]
    if shutil.which("setpriv", path=SEARCH_PATH) is None:
        return "setpriv is not installed: apt-get install util-linux"
    if all(shutil.which(binary, path=SEARCH_PATH) for binary in binaries) and (kind != "galera" or GALERA_LIBRARIES):
        return ""
    return f"{title} is not installed: apt-get install {packages}"


def is_listened_on(port: int) -> bool:
    """Whether somebody listens on a TCP port of the loopback."""
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on, another one at each call."""
    return next(port for port in _ports if not is_listened_on(port))


class Server:
    """A server with a data folder, a port and a socket of its own; settings are those of its configuration file."""

    kind: str
    orderly_signal: signal.Signals
    immediate_signal: signal.Signals

    def __init__(self, **settings: str) -> None:
        self.settings = settings
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.kind}-"))
        self.data = self.folder / "data"
        self.log = self.folder / "log"
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._privileges: List[str] = []
        self.folder.chmod(0o755)
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            user = pwd.getpwnam("nobody")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._privileges = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]

    def start(self, *options: str) -> None:
        """Start, on new data at first, and wait until connections are accepted."""
        if not self.data.exists():
            self._create_data()
        command = self._as_user(*self._command(), *options)
        with self.log.open("ab") as log:
            self._process = _starter.submit(
                subprocess.Popen,
                command,
                cwd=str(self.folder),
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the tests alone
            ).result()
        try:
            self._wait_until(self._is_ready, "accept connections")
        except BaseException:
            self.stop(immediate=True)
            raise

    def stop(self, immediate: bool = False) -> None:
        """Shut down in order, or at once as in a crash, and wait until the process is gone."""
        if self._process is None:
            return
        self._process.send_signal(self.immediate_signal if immediate else self.orderly_signal)
        try:
            self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise RuntimeError(self._complaint("stop")) from None
        finally:
            self._process = None

    def restart(self, immediate: bool = False) -> None:
        """Stop and start on the same data and port."""
        self.stop(immediate)
        self.start()

    def remove(self) -> None:
        """Stop and leave nothing behind."""
        try:
            self.stop(immediate=True)
        finally:
            shutil.rmtree(str(self.folder), ignore_errors=True)

    def database(self, scheme: str) -> "Database":
        """A fresh database."""
        database = Database(self, scheme, f"test_{uuid.uuid4().hex[:12]}")
        self._create_database(database.name)
        return database

    def administrator(self, database: Optional[str] = None) -> Any:
        """A connection that may do everything, in autocommit."""
        raise NotImplementedError

    def sql(self, statement: str, *values: Any, database: Optional[str] = None) -> List[Tuple[Any, ...]]:
        """What a statement of the administrator returns; ? stands for a value."""
        with closing(self.administrator(database)) as connection, closing(connection.cursor()) as cursor:
            if values:
                cursor.execute(statement.replace("%", "%%").replace("?", "%s"), values)
            else:
                cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

    def drop_database(self, name: str) -> None:
        """Drop a database, and whoever is still connected to it."""
        raise NotImplementedError

    def _driver(self) -> Any:
        raise NotImplementedError

    def _create_data(self) -> None:
        raise NotImplementedError

    def _create_database(self, name: str) -> None:
        raise NotImplementedError

    def _command(self) -> List[str]:
        raise NotImplementedError

    def _as_user(self, *command: str) -> List[str]:
        """The command without root's rights, and ended when the tests end, even if they are killed."""
        return ["setpriv", *self._privileges, f"--pdeathsig={self.immediate_signal.name[3:]}", *command]

    def _run(self, *command: str) -> None:
        with self.log.open("ab") as log:
            result = subprocess.run(
                self._as_user(*command),
                cwd=str(self.folder),
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if result.returncode != 0:
            raise RuntimeError(self._complaint(f"run {command[0]}"))

    def _is_ready(self) -> bool:
        # PyMySQL leaves a socket open when nobody listens: it is not asked before somebody does
        try:
            return is_listened_on(self.port) and self._serves()
        except self._driver().Error:
            return False

    def _serves(self) -> bool:
        return bool(self.sql("SELECT 1"))

    def _wait_until(self, condition: Callable[[], bool], aim: str) -> None:
        deadline = time.monotonic() + DEADLINE
        while not condition():
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(self._complaint(aim))
            time.sleep(POLL_INTERVAL)

    def _complaint(self, aim: str) -> str:
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])
        return f"{self.kind} on port {self.port} did not {aim}; its log ends with:\n{tail}"


class Database:
    """A database on a server, with an owner who has to show a password."""

    def __init__(self, server: Server, scheme: str, name: str) -> None:
        self.server = server
        self.scheme = scheme
        self.name = name
        self.url = f"{scheme}://{OWNER}:{PASSWORD}@127.0.0.1:{server.port}/{name}"

    def on(self, server: Server) -> "Database":
        """The same database as a replica of its server shows it."""
        return Database(server, self.scheme, self.name)

    def sql(self, statement: str, *values: Any) -> List[Tuple[Any, ...]]:
        """What a statement of the administrator returns, on a connection of its own; ? stands for a value."""
        return self.server.sql(statement, *values, database=self.name)

    def drop(self) -> None:
        """Drop it, whoever is still connected."""
        self.server.drop_database(self.name)


class PostgreSQL(Server):
    """A PostgreSQL server; passwords are checked on TCP, and everyone is trusted on its socket."""

    kind = "postgresql"
    orderly_signal = signal.SIGINT
    immediate_signal = signal.SIGQUIT

    @property
    def socket_folder(self) -> Path:
        """What a client names as its host to use the socket."""
        return self.folder

    def administrator(self, database: Optional[str] = None) -> Any:
        connection = self._driver().connect(
            host=str(self.socket_folder), port=self.port, user="postgres", dbname=database or "postgres"
        )
        connection.autocommit = True
        return connection

    def standby(self, port: Optional[int] = None) -> "PostgreSQL":
        """A streaming replica that has caught up, on this port or on a free one."""
        standby = PostgreSQL(**self.settings)
        standby.port = port or standby.port
        try:
            source = ["-h", str(self.socket_folder), "-p", str(self.port), "-U", "postgres"]
            standby._run("pg_basebackup", *source, "-D", str(standby.data), "-R", "-c", "fast", "--no-sync")
            standby.start()
            self.wait_for(standby)
        except BaseException:
            standby.remove()
            raise
        return standby

    def wait_for(self, standby: "PostgreSQL") -> None:
        """Wait until a standby shows what was done here so far."""
        ((position,),) = self.sql("SELECT pg_current_wal_lsn()::text")
        standby._wait_until(lambda: standby._has_replayed(position), "catch up")

    def wait_for_standbys_at_commits(self) -> None:
        """Acknowledge from now on no commit before a standby has it. Those who stream from here do not inherit it."""
        self.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.sql("SELECT pg_reload_conf()")
        self._wait_until(
            lambda: ("sync",) in self.sql("SELECT sync_state FROM pg_stat_replication"), "replicate synchronously"
        )

    def wait_for_unacknowledged_commit(self, name: str) -> None:
        """Wait until a session in a database waits for a standby that has its commit, but does not say so yet."""
        self._wait_until(
            lambda: bool(
                self.sql("SELECT 1 FROM pg_stat_activity WHERE datname = ? AND wait_event = 'SyncRep'", name)
                and self.sql("SELECT 1 FROM pg_stat_replication WHERE flush_lsn >= pg_current_wal_lsn()")
            ),
            "have a standby receive a commit",
        )

    def promote(self) -> None:
        """Make a standby a server of its own that takes writes."""
        if self.sql("SELECT pg_promote(true, ?)", int(DEADLINE)) != [(True,)]:
            raise RuntimeError(self._complaint("get promoted"))

    def drop_database(self, name: str) -> None:
        self.sql(f"DROP DATABASE {name} WITH (FORCE)")

    def _driver(self) -> Any:
        try:
            import psycopg
        except ImportError:
            import psycopg2

            return psycopg2
        return psycopg

    def _create_data(self) -> None:
        authentication = ["--auth-host=scram-sha-256", "--auth-local=trust"]
        self._run(
            *["initdb", "-D", str(self.data), "-U", "postgres", "--encoding=UTF8", "--locale=C", "--no-sync"],
            *authentication,
        )

    def _create_database(self, name: str) -> None:
        if not self.sql("SELECT 1 FROM pg_roles WHERE rolname = ?", OWNER):
            self.sql(f"CREATE ROLE {OWNER} LOGIN PASSWORD '{PASSWORD}'")
        self.sql(f"CREATE DATABASE {name} OWNER {OWNER}")

    def _command(self) -> List[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.socket_folder),
            "shared_buffers": "16MB",
            **self.settings,
        }
        return ["postgres", "-D", str(self.data), *(f"-c{name}={value}" for name, value in settings.items())]

    def _has_replayed(self, position: str) -> bool:
        return self.sql(
            "SELECT 1 FROM pg_stat_wal_receiver WHERE status = 'streaming' AND pg_last_wal_replay_lsn() >= ?::pg_lsn",
            position,
        ) == [(1,)]


class MariaDB(Server):
    """A MariaDB server; its administrator comes through its socket."""

    kind = "mariadb"
    orderly_signal = signal.SIGTERM
    immediate_signal = signal.SIGKILL

    @property
    def socket(self) -> Path:
        """The socket's file."""
        return self.folder / "socket"

    def administrator(self, database: Optional[str] = None) -> Any:
        return self._driver().connect(unix_socket=str(self.socket), user="root", database=database, autocommit=True)

    def drop_database(self, name: str) -> None:
        for (session,) in self.sql("SELECT id FROM information_schema.processlist WHERE db = ?", name):
            self._kill(session)
        self.sql(f"DROP DATABASE {name}")

    def _kill(self, session: int) -> None:
        no_such_session = 1094
        try:
            self.sql(f"KILL {session}")
        except self._driver().Error as error:
            if error.args[0] != no_such_session:
                raise

    def _driver(self) -> Any:
        import pymysql

        return pymysql

    def _create_data(self) -> None:
        self._run(
            *["mariadb-install-db", "--no-defaults", f"--datadir={self.data}", "--skip-test-db"],
            "--auth-root-authentication-method=normal",
        )

    def _create_database(self, name: str) -> None:
        self.sql(f"CREATE DATABASE {name}")
        hosts = ["%", "localhost"]
        users = ", ".join(f"'{OWNER}'@'{host}' IDENTIFIED BY '{PASSWORD}'" for host in hosts)
        self.sql(f"CREATE USER IF NOT EXISTS {users}")
        self.sql(f"GRANT ALL ON {name}.* TO " + ", ".join(f"'{OWNER}'@'{host}'" for host in hosts))

    def _command(self) -> List[str]:
        settings = {
            "datadir": str(self.data),
            "bind_address": "127.0.0.1",
            "port": str(self.port),
            "socket": str(self.socket),
            "pid_file": str(self.folder / "pid"),
            "tmpdir": str(self.folder),  # A starting server deletes the temporary tables of others from a shared one.
            "innodb_buffer_pool_size": "32M",
            "innodb_log_file_size": "16M",
            **self.settings,
        }
        return ["mariadbd", "--no-defaults", *(f"--{name}={value}" for name, value in settings.items())]


class GaleraNode(MariaDB):
    """A MariaDB server that is ready when it has what its cluster has."""

    def wait_for_cluster(self) -> None:
        """Wait until what the cluster has done so far is done here."""
        with closing(self.administrator()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute("SET SESSION wsrep_sync_wait = 15")
            cursor.execute("SELECT 1")

    def wait_for_cluster_of(self, size: int) -> None:
        """Wait until so many nodes are left, or have joined, and this one serves again."""
        self._wait_until(
            lambda: (
                self.sql("SHOW STATUS LIKE 'wsrep_cluster_size'") == [("wsrep_cluster_size", str(size))]
                and self._is_ready()
            ),
            f"get into a cluster of {size}",
        )

    def _serves(self) -> bool:
        return self.sql("SHOW STATUS LIKE 'wsrep_local_state_comment'") == [("wsrep_local_state_comment", "Synced")]


class Galera:
    """Three MariaDB servers that are one cluster: each takes writes."""

    def __init__(self, **settings: str) -> None:
        addresses = [f"127.0.0.1:{free_port()}" for _ in range(3)]
        shared = {
            "binlog_format": "ROW",
            "wsrep_on": "ON",
            "wsrep_provider": GALERA_LIBRARIES[0],
            "wsrep_cluster_address": "gcomm://" + ",".join(addresses),
            "wsrep_sst_method": "rsync",
        }
        self.nodes = [GaleraNode(**{**shared, **self._addresses(address), **settings}) for address in addresses]

    def start(self) -> None:
        """Found the cluster with the first node, let the others join one by one."""
        first, *others = self.nodes
        first.start("--wsrep-new-cluster")
        for node in others:
            node.start()

    def remove(self) -> None:
        """Stop every node and leave nothing behind."""
        for node in self.nodes:
            node.remove()

    def database(self, scheme: str) -> Database:
        """A fresh database, on the first node as it is on the others."""
        first, *others = self.nodes
        database = first.database(scheme)
        for node in others:
            node.wait_for_cluster()
        return database

    @staticmethod
    def _addresses(address: str) -> Dict[str, str]:
        host, port = address.split(":")
        return {
            "wsrep_node_address": address,
            "wsrep_sst_receive_address": f"{host}:{free_port()}",
            "wsrep_provider_options": f"base_host={host};base_port={port};gmcast.listen_addr=tcp://{address};"
            f"ist.recv_addr={host}:{free_port()}",
        }
