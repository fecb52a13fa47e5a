"""Private database servers, which the tests start and remove.

Their programs are the system's, or those of another Debian release in the root tree that TEST_SERVER_TREE names.
`fetch_server.py` makes such trees.
"""

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
REPLICA = "replica"  # the account through which a node of a group gets the data
FETCH = "python tests/fetch_server.py"

PROGRAMS = {
    "postgresql": ("PostgreSQL's server", "postgresql", ["initdb", "postgres", "pg_basebackup"]),
    "mariadb": ("MariaDB's server", "mariadb-server", ["mariadbd", "mariadb-install-db"]),
    "galera": ("Galera", "mariadb-server galera-4 rsync lsof", ["mariadbd", "mariadb-install-db", "rsync", "lsof"]),
}
GALERA_LIBRARIES = glob.glob("/usr/lib*/galera*/libgalera_smm.so")

# What a server in a tree sees of the system: devices, processes, and its own folder.
ENTER_TREE = """
tree=$1
for folder in /dev /proc "$2"; do
  mkdir -p "$tree$folder"
  mount --rbind "$folder" "$tree$folder"
done
shift 2
exec chroot "$tree" "$@"
"""


class Installation:
    """The root folder under which servers' programs are: the system's, or that of a tree."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # Debian keeps PostgreSQL's programs off the PATH, in a folder per version. A user's PATH lacks /usr/sbin.
        postgresql = root.glob("usr/lib/postgresql/*/bin")
        newest_first = sorted(postgresql, key=lambda folder: float(folder.parent.name), reverse=True)
        user_path = os.environ.get("PATH", os.defpath) if self.is_system else "/usr/bin"
        self._path = [f"/{path.relative_to(root)}" for path in newest_first]
        self._path += [*user_path.split(os.pathsep), "/usr/sbin"]
        self.environment = {**os.environ, "PATH": os.pathsep.join(self._path), "LC_ALL": "C"}

    @property
    def is_system(self) -> bool:
        return self.root == Path("/")

    def has(self, *programs: str) -> bool:
        """Return True if all the programs are installed."""
        path = os.pathsep.join(str(self.root / folder.lstrip("/")) for folder in self._path)
        return all(shutil.which(program, path=path) for program in programs)

    def command(self, *command: str) -> List[str]:
        """Return the command that runs another one in this installation, in the same process."""
        if self.is_system:
            return list(command)
        enter = ["unshare", "--mount", "sh", "-euc", ENTER_TREE, "sh", str(self.root), tempfile.gettempdir()]
        return [*enter, *command]


SYSTEM = Installation(Path("/"))
TREE = Installation(Path(os.environ["TEST_SERVER_TREE"]).resolve()) if os.environ.get("TEST_SERVER_TREE") else None


def kind_in_tree() -> Optional[str]:
    """Return the kind of server that is in the tree, None if the tests run on the system's servers."""
    if TREE is None:
        return None
    for kind, program in (("mariadb", "mariadbd"), ("mysql", "mysqld"), ("postgresql", "postgres")):
        if TREE.has(program):
            return kind
    raise RuntimeError(f"There is no server in {TREE.root}, which TEST_SERVER_TREE names. Run: {FETCH} --help")


KIND_IN_TREE = kind_in_tree()

# A server dies with the thread that started it. This thread lasts as long as the tests do.
_starter = ThreadPoolExecutor(max_workers=1)
# The system gives clients higher ports, so no client takes a server's port while it restarts.
_ports = itertools.count(random.randrange(10_000, 30_000))


def installation_of(kind: str) -> Installation:
    """Return the tree if it has this kind of server, otherwise the system."""
    return TREE if TREE and kind == KIND_IN_TREE else SYSTEM


def why_missing(kind: str) -> str:
    """Return what to do before a server of this kind can start, "" if nothing."""
    installation = installation_of(kind)
    if not SYSTEM.has("setpriv"):
        return "setpriv is not installed: apt-get install util-linux"
    if not installation.is_system:
        return "" if os.geteuid() == 0 else "Only root can start servers in TEST_SERVER_TREE"
    if kind == "mysql":
        return f"MySQL's server is not here: set TEST_SERVER_TREE=$({FETCH} mysql)"
    title, packages, programs = PROGRAMS[kind]
    if installation.has(*programs) and (kind != "galera" or GALERA_LIBRARIES):
        return ""
    return f"{title} is not installed: apt-get install {packages}"


def is_listened_on(port: int) -> bool:
    """Return True if a process listens on this TCP port of the loopback interface."""
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """Return an unused TCP port of the loopback interface, another one at each call."""
    return next(port for port in _ports if not is_listened_on(port))


class Server:
    """A server with its own data folder, port and socket.

    Args:
        settings: Settings as in the server's configuration file.
    """

    kind: str  # the product
    dialect: str  # of SQL, one for MariaDB and MySQL
    has_sequences = True
    orderly_signal: signal.Signals
    immediate_signal: signal.Signals

    def __init__(self, **settings: str) -> None:
        self.settings = settings
        self.installation = installation_of(self.kind)
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
        """Start, the first time with new data, and wait until the server accepts connections."""
        if not self.data.exists():
            self._create_data()
        command = self._as_user(*self._command(), *options)
        with self.log.open("ab") as log:
            self._process = _starter.submit(
                subprocess.Popen,
                command,
                cwd=str(self.folder),
                # For tests of other languages. PostgreSQL ignores it in the locale C.
                env={**self.installation.environment, "LANGUAGE": "de"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C stops the tests, not the server
            ).result()
        try:
            self._wait_until(self._is_ready, "accept connections")
        except BaseException:
            self.stop(immediate=True)
            raise

    def stop(self, immediate: bool = False) -> None:
        """Shut down cleanly, or immediately as in a crash, and wait until the process has ended."""
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
        """Stop, then start with the same data and port."""
        self.stop(immediate)
        self.start()

    def pause(self) -> None:
        """Stop the process without ending it: its clients wait."""
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on."""
        self._send(signal.SIGCONT)

    def remove(self) -> None:
        """Stop, and delete all files."""
        try:
            self.stop(immediate=True)
        finally:
            shutil.rmtree(str(self.folder), ignore_errors=True)

    def database(self, scheme: str) -> "Database":
        """Create a database."""
        database = Database(self, scheme, f"test_{uuid.uuid4().hex[:12]}")
        self._create_database(database.name)
        return database

    def administrator(self, database: Optional[str] = None) -> Any:
        """Connect as the administrator, in autocommit mode."""
        raise NotImplementedError

    def sql(self, statement: str, *values: Any, database: Optional[str] = None) -> List[Tuple[Any, ...]]:
        """Run a statement as the administrator and return its rows. Each ? stands for a value."""
        with closing(self.administrator(database)) as connection, closing(connection.cursor()) as cursor:
            if values:
                cursor.execute(statement.replace("%", "%%").replace("?", "%s"), values)
            else:
                cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

    def drop_database(self, name: str) -> None:
        """Drop a database and end the sessions that use it."""
        raise NotImplementedError

    def _send(self, number: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(number)

    def _driver(self) -> Any:
        raise NotImplementedError

    def _create_data(self) -> None:
        raise NotImplementedError

    def _create_database(self, name: str) -> None:
        raise NotImplementedError

    def _command(self) -> List[str]:
        raise NotImplementedError

    def _as_user(self, *command: str) -> List[str]:
        """Return the command that runs another one without root's rights, and ends it when the tests end or are killed.

        setpriv comes last, in the tree: Linux forgets the signal of --pdeathsig when a process changes its user.
        """
        setpriv = ["setpriv", *self._privileges, f"--pdeathsig={self.immediate_signal.name[3:]}"]
        return self.installation.command(*setpriv, *command)

    def _run(self, *command: str) -> None:
        with self.log.open("ab") as log:
            result = subprocess.run(
                self._as_user(*command),
                cwd=str(self.folder),
                # MariaDB deletes the temporary tables of other servers from a shared folder.
                env={**self.installation.environment, "TMPDIR": str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if result.returncode != 0:
            raise RuntimeError(self._complaint(f"run {command[0]}"))

    def _is_ready(self) -> bool:
        # PyMySQL leaks a socket when nobody listens, so look for a listener first.
        try:
            return is_listened_on(self.port) and self._serves()
        except self._driver().Error:
            return False

    def _serves(self) -> bool:
        return bool(self.sql("SELECT 1"))

    def _wait_until(self, condition: Callable[[], bool], aim: str, seconds: float = DEADLINE) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(self._complaint(aim))
            time.sleep(POLL_INTERVAL)

    def _complaint(self, aim: str) -> str:
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])
        return f"{self.kind} on port {self.port} did not {aim}. Its log ends with:\n{tail}"


class Database:
    """A database on a server. Its owner logs in with a password."""

    def __init__(self, server: Server, scheme: str, name: str) -> None:
        self.server = server
        self.scheme = scheme
        self.name = name
        self.url = f"{scheme}://{OWNER}:{PASSWORD}@127.0.0.1:{server.port}/{name}"

    def on(self, server: Server) -> "Database":
        """Return the same database on a replica of its server."""
        return Database(server, self.scheme, self.name)

    def sql(self, statement: str, *values: Any) -> List[Tuple[Any, ...]]:
        """Run a statement as the administrator, on a new connection, and return its rows. Each ? stands for a value."""
        return self.server.sql(statement, *values, database=self.name)

    def administrator(self) -> Any:
        """Connect to it as the administrator, in autocommit mode."""
        return self.server.administrator(self.name)

    def drop(self) -> None:
        """Drop it and end the sessions that use it."""
        self.server.drop_database(self.name)


class PostgreSQL(Server):
    """A PostgreSQL server. It checks passwords on TCP connections, not on its socket."""

    kind = dialect = "postgresql"
    orderly_signal = signal.SIGINT
    immediate_signal = signal.SIGQUIT

    @property
    def socket_folder(self) -> Path:
        """The `host` for connections through the socket."""
        return self.folder

    def administrator(self, database: Optional[str] = None) -> Any:
        connection = self._driver().connect(
            host=str(self.socket_folder), port=self.port, user="postgres", dbname=database or "postgres"
        )
        connection.autocommit = True
        return connection

    def standby(self, port: Optional[int] = None) -> "PostgreSQL":
        """Start a streaming replica, on this port or on a free one, and wait until it has caught up."""
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
        """Wait until a standby has replayed everything that this server has written so far."""
        ((position,),) = self.sql("SELECT pg_current_wal_lsn()::text")
        standby._wait_until(lambda: standby._has_replayed(position), "catch up")

    def wait_for_standbys_at_commits(self) -> None:
        """Acknowledge a commit only when a standby has it. Servers that stream from this one do not inherit this."""
        self.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.sql("SELECT pg_reload_conf()")
        self._wait_until(
            lambda: ("sync",) in self.sql("SELECT sync_state FROM pg_stat_replication"), "replicate synchronously"
        )

    def wait_for_unacknowledged_commit(self, name: str) -> None:
        """Wait until a standby has received a commit in this database and has not yet acknowledged it."""
        self._wait_until(
            lambda: bool(
                self.sql("SELECT 1 FROM pg_stat_activity WHERE datname = ? AND wait_event = 'SyncRep'", name)
                and self.sql("SELECT 1 FROM pg_stat_replication WHERE flush_lsn >= pg_current_wal_lsn()")
            ),
            "have a standby receive a commit",
        )

    def promote(self) -> None:
        """Promote this standby to a primary server."""
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
    """A MariaDB server. Its administrator connects through the socket."""

    kind = "mariadb"
    dialect = "mysql"
    monitoring_schema = "information_schema"  # has the tables processlist, global_status and session_status

    _program = "mariadbd"
    orderly_signal = signal.SIGTERM
    immediate_signal = signal.SIGKILL

    @property
    def socket(self) -> Path:
        """The path of the socket."""
        return self.folder / "socket"

    def administrator(self, database: Optional[str] = None) -> Any:
        return self._driver().connect(unix_socket=str(self.socket), user="root", database=database, autocommit=True)

    def drop_database(self, name: str) -> None:
        for (session,) in self.sql(f"SELECT id FROM {self.monitoring_schema}.processlist WHERE db = ?", name):
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
            "--force",  # although the tree cannot look up the host's name
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
            # Defaults differ between versions. These are the narrowest ones that still occur.
            "character_set_server": "latin1",
            "max_allowed_packet": "16M",
            "innodb_buffer_pool_size": "32M",
            **self._version_settings(),
            **self.settings,
        }
        return [self._program, "--no-defaults", *(f"--{name}={value}" for name, value in settings.items())]

    def _version_settings(self) -> Dict[str, str]:
        return {"innodb_log_file_size": "16M"}


class MySQL(MariaDB):
    """A MySQL server. Its administrator connects through the socket."""

    kind = "mysql"
    has_sequences = False
    monitoring_schema = "performance_schema"

    _program = "mysqld"

    def _create_data(self) -> None:
        self._run(self._program, "--no-defaults", "--initialize-insecure", f"--datadir={self.data}")

    def _version_settings(self) -> Dict[str, str]:
        # The default folder of secure_file_priv does not exist in a tree, and mysqlx listens on a fixed port.
        return {"innodb_redo_log_capacity": "32M", "mysqlx": "OFF", "secure_file_priv": ""}


class ClusterNode(MariaDB):
    """A node of a cluster."""

    bootstrap: str  # the option that creates the cluster
    synchronize: str  # the setting with which a session sees what the cluster has committed

    def wait_for_cluster(self) -> None:
        """Wait until this node has applied everything that the cluster has committed so far."""
        with closing(self.administrator()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(f"SET SESSION {self.synchronize}")
            cursor.execute("SELECT 1")


class GaleraNode(ClusterNode):
    """A node of a Galera cluster. It is ready when it is in sync with the cluster."""

    bootstrap = "--wsrep-new-cluster"
    synchronize = "wsrep_sync_wait = 15"

    def wait_for_cluster_of(self, size: int) -> None:
        """Wait until the cluster has this many nodes, and this node is ready."""
        self._wait_until(
            lambda: (
                self.sql("SHOW STATUS LIKE 'wsrep_cluster_size'") == [("wsrep_cluster_size", str(size))]
                and self._is_ready()
            ),
            f"get into a cluster of {size}",
        )

    def _serves(self) -> bool:
        return self.sql("SHOW STATUS LIKE 'wsrep_local_state_comment'") == [("wsrep_local_state_comment", "Synced")]


class GroupNode(ClusterNode, MySQL):
    """A node of a group of MySQL's Group Replication. It is ready when it is an online member of the group."""

    bootstrap = "--loose_group_replication_bootstrap_group=ON"
    synchronize = "group_replication_consistency = 'BEFORE'"

    def start(self, *options: str) -> None:
        super().start(*options)
        # The server gives up an attempt after 90 s, which happens if the group is busy with another member.
        self._wait_until(self._is_admitted, "join the group", 4 * DEADLINE)
        self._wait_until(lambda: ("ONLINE",) in self._members(f"member_port = {self.port}"), "catch up with the group")

    def wait_for_cluster_of(self, size: int) -> None:
        """Wait until the group has this many nodes, all of them online."""
        self._wait_until(lambda: self._members() == [("ONLINE",)] * size, f"get into a group of {size}")

    def is_primary(self) -> bool:
        """Return True if this node accepts writes."""
        return bool(self._members(f"member_port = {self.port} AND member_role = 'PRIMARY'"))

    def _is_admitted(self) -> bool:
        not_admitted = 3092  # The group still has the member that this node was before it crashed.
        try:
            self.sql(f"START GROUP_REPLICATION USER = '{REPLICA}', PASSWORD = '{PASSWORD}'")
        except self._driver().Error as error:
            if error.args[0] != not_admitted:
                raise
            return False
        return True

    def _members(self, condition: str = "true") -> List[Tuple[Any, ...]]:
        return self.sql(f"SELECT member_state FROM performance_schema.replication_group_members WHERE {condition}")


class Cluster:
    """Three servers that replicate to each other. Each accepts writes."""

    kind: str  # the product, as for `why_missing`
    nodes: List[Any]

    def start(self) -> None:
        """Create the cluster with the first node, then let the others join one by one."""
        first, *others = self.nodes
        first.start(first.bootstrap)
        self.prepare(first)
        for node in others:
            node.start()

    def prepare(self, first: Any) -> None:
        """Prepare the first node for the others."""

    def remove(self) -> None:
        """Stop every node, and delete all files."""
        for node in self.nodes:
            node.remove()

    def database(self, scheme: str) -> Database:
        """Create a database, and wait until every node has it."""
        first, *others = self.nodes
        database: Database = first.database(scheme)
        for node in others:
            node.wait_for_cluster()
        return database


class Galera(Cluster):
    """A cluster of MariaDB servers."""

    kind = "galera"

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

    @staticmethod
    def _addresses(address: str) -> Dict[str, str]:
        host, port = address.split(":")
        return {
            "wsrep_node_address": address,
            "wsrep_sst_receive_address": f"{host}:{free_port()}",
            "wsrep_provider_options": f"base_host={host};base_port={port};gmcast.listen_addr=tcp://{address};"
            f"ist.recv_addr={host}:{free_port()}",
        }


class Group(Cluster):
    """A multi-primary group of MySQL servers with Group Replication."""

    kind = "mysql"

    def __init__(self, **settings: str) -> None:
        addresses = [f"127.0.0.1:{free_port()}" for _ in range(3)]
        shared = {
            "plugin_load_add": "group_replication.so",
            "gtid_mode": "ON",
            "enforce_gtid_consistency": "ON",
            "report_host": "127.0.0.1",
            "super_read_only": "ON",  # until the node is a member, which it becomes only some time after its start
            "loose_group_replication_start_on_boot": "OFF",
            "loose_group_replication_single_primary_mode": "OFF",
            "loose_group_replication_enforce_update_everywhere_checks": "ON",
            "loose_group_replication_group_name": str(uuid.uuid4()),
            "loose_group_replication_group_seeds": ",".join(addresses),
            "loose_group_replication_member_expel_timeout": "0",  # seconds, after 5 s of silence
            "loose_group_replication_recovery_get_public_key": "ON",
        }
        self.nodes = [
            GroupNode(
                **{
                    **shared,
                    "server_id": str(number),
                    "loose_group_replication_local_address": address,
                    **settings,
                }
            )
            for number, address in enumerate(addresses, start=1)
        ]

    def prepare(self, first: Any) -> None:
        """Create the account that the others log in with."""
        first.sql(f"CREATE USER {REPLICA} IDENTIFIED BY '{PASSWORD}'")
        first.sql(f"GRANT REPLICATION SLAVE ON *.* TO {REPLICA}")
