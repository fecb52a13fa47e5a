"""`DBStore`: magnus' run log store interface on the table `db_log`."""

import functools
import re
import threading
from datetime import datetime
from typing import Any, Callable, Dict, Generic, List, Optional, Sequence, Tuple, TypeVar, Union

from magnus import defaults, exceptions
from magnus.datastore import BaseRunLogStore, BranchLog, RunLog, StepLog
from magnus.secrets import DoNothingSecretManager
from pydantic import ConfigDict, Field, PrivateAttr, SecretStr, ValidationError, field_serializer

from magnus_peewee_store import fragments
from magnus_peewee_store.db import open_table
from magnus_peewee_store.db.base import MASK, RETRY_TIMEOUT, Backend
from magnus_peewee_store.db.table import Requirement
from magnus_peewee_store.db.url import ConnectionString, get_no_secret, make_database
from magnus_peewee_store.db.whole_runs import RunTable
from magnus_peewee_store.exceptions import ConfigurationError, RunLogStoreError
from magnus_peewee_store.heartbeat import Heartbeat
from magnus_peewee_store.origin import this_process

DEFAULT_CONNECTION_STRING = f"sqlite:///{defaults.LOG_LOCATION_FOLDER}/run_log.db"

HEARTBEAT_INTERVAL = 30.0  # seconds

STARTED_BY = "started_by"  # The store adds this key to the run config. It holds the origin of the run.
CONFIG_KEYS = ("connection_string", "heartbeat", "record_environment", "retry_timeout")

T = TypeVar("T")

MAX_READ_RUNS = 100  # the maximum number of runs whose parameters a thread remembers


class RunNotFoundError(RunLogStoreError, exceptions.RunLogNotFoundError):
    """No run has this id, or several ids begin with it. The message names the nearest ids.

    Args:
        nearest: The ids that the message names.
        is_ambiguous: Whether several ids begin with the id that was given.
    """

    def __init__(self, message: str, nearest: Sequence[str] = (), is_ambiguous: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.nearest = tuple(nearest)
        self.is_ambiguous = is_ambiguous
        self.args = (message,)


class _TextError(Exception):
    """Give an error of magnus a text, which magnus leaves empty. The error can be pickled."""

    def __init__(self, *names: str) -> None:
        super().__init__(*names)
        self.args = names

    def __str__(self) -> str:
        return str(self.message)  # type: ignore[attr-defined]


class _MissingRunError(_TextError, exceptions.RunLogNotFoundError):
    pass


class _MissingStepError(_TextError, exceptions.StepLogNotFoundError):
    pass


class _MissingBranchError(_TextError, exceptions.BranchLogNotFoundError):
    pass


class RunExistsError(_TextError, RunLogStoreError, exceptions.RunLogExistsError):
    """A run with this id exists already. The message says how to choose another id."""

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id)
        self.message = (
            f"A run with the id '{run_id}' exists already. magnus' generated ids repeat from day to day. "
            f"Choose an id with --run-id, for example with the date: --run-id {run_id}-{datetime.now():%Y-%m-%d-%H%M%S}"
        )


class _ReadParameters(threading.local):
    """The parameters that this thread has read since it last wrote any: for each run, JSON values by name."""

    def __init__(self) -> None:
        self._by_run: Dict[str, Dict[str, str]] = {}

    def remember(self, run_id: str, values: Dict[str, str]) -> None:
        self._by_run.pop(run_id, None)
        self._by_run[run_id] = values
        if len(self._by_run) > MAX_READ_RUNS:
            del self._by_run[next(iter(self._by_run))]

    def pop(self, run_id: str) -> Dict[str, str]:
        """Forget the parameters of a run, and return them."""
        return self._by_run.pop(run_id, {})


class _MadeOnce(Generic[T]):
    """An attribute of `DBStore` that the decorated method makes at the first use, in one thread only.

    `functools.cached_property` takes no lock since Python 3.12, and before that one lock for all stores. pydantic's
    private attributes take microseconds to read.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        functools.update_wrapper(self, make)  # type: ignore[arg-type]
        self._make = make

    def __get__(self, store: Any, owner: Any = None) -> T:
        if store is None:
            return self  # type: ignore[return-value]
        name = self._make.__name__
        with store._lock:
            if name not in store.__dict__:
                store.__dict__[name] = self._make(store)
            return store.__dict__[name]  # type: ignore[no-any-return]


class DBStore(BaseRunLogStore):
    """A run log store in a database. Each fragment of a run log is one row.

    Any number of processes may write at the same time. The store connects when it is first used, because magnus creates
    it before secrets are available.

    Args:
        connection_string: The URL of the database, with or without `${placeholders}` for secrets. The default is an
            SQLite file in the folder `.run_log_store`.
        retry_timeout: For how many seconds a call retries transient errors before it raises.
        heartbeat: The seconds between two heartbeats while magnus executes a run; 0 turns heartbeats off.
        record_environment: Whether to write which Python, magnus and packages a run was started with.

    Example:
        In magnus' configuration::

            run_log_store:
              type: db
              config:
                connection_string: sqlite:///runs.db
    """

    service_name: str = "db"
    connection_string: SecretStr = SecretStr(DEFAULT_CONNECTION_STRING)
    retry_timeout: float = Field(default=RETRY_TIMEOUT, ge=0)
    heartbeat: float = Field(default=HEARTBEAT_INTERVAL, ge=0, allow_inf_nan=False)
    record_environment: bool = True

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, ignored_types=(_MadeOnce,))

    _lock: Any = PrivateAttr(default_factory=threading.RLock)
    _config_errors: List[str] = PrivateAttr(default_factory=list)
    _folder: str = PrivateAttr(default="")
    _base: str = PrivateAttr(default="")
    _secrets_handler: Any = PrivateAttr(default=None)
    _heartbeat: Heartbeat = PrivateAttr()

    def __init__(self, **config: Any) -> None:
        try:
            super().__init__(**config)
        except ValidationError as error:
            # Raised at the first use instead. Here magnus would print the whole configuration, with its passwords.
            super().__init__()
            self._config_errors = [f"'{_masked_key(each['loc'])}': {each['msg']}" for each in error.errors()]
        self._heartbeat = Heartbeat(self.heartbeat, self._is_executing)

    def __reduce__(self) -> Any:
        """Pickle and copy the configuration only: neither the connection, nor the secrets handler and its secrets.

        A password that stands in the connection string itself is part of the pickle. Write a placeholder instead.
        """
        config = {name: getattr(self, name) for name in CONFIG_KEYS}
        config["connection_string"] = self.connection_string.get_secret_value()
        return _restore, (config, self._folder, self._base)

    def __deepcopy__(self, memo: Any = None) -> "DBStore":
        """Copy as `__reduce__` says."""
        restore, arguments = self.__reduce__()
        return restore(*arguments)  # type: ignore[no-any-return]

    @field_serializer("connection_string")
    def _mask_connection_string(self, connection_string: SecretStr) -> str:
        # magnus prints the dump of its context and stores it in the run config.
        return ConnectionString(connection_string.get_secret_value()).masked

    def find_file(self, should_use_secrets: bool = True) -> Optional[str]:
        """Return the path of the SQLite file, without opening it.

        Args:
            should_use_secrets: Whether to fill in the placeholders of the connection string.

        Returns:
            The absolute path of the file, or `:memory:`; None for a server, or if a missing secret contains the scheme.

        Raises:
            ConfigurationError: If the configuration is not valid.
        """
        self._check_configuration()
        url = ConnectionString(self.connection_string.get_secret_value(), base=self._base)
        return url.file_path(self._get_secret if should_use_secrets else get_no_secret)

    def set_folder(self, folder: str, base: str = "") -> None:
        """Set the folder of the SQLite file, instead of the one that the connection string names.

        A container needs this: it sees the file in the folder where magnus mounts it.

        Args:
            folder: The folder; empty for the one that the connection string names.
            base: The folder that a relative path starts from, instead of the working folder.
        """
        self._folder, self._base = folder, base

    @property
    def secrets_handler(self) -> Any:
        """The secrets handler that was set, or else the one of the running pipeline."""
        return self._secrets_handler or (self._context.secrets_handler if self._context else None)

    def set_secrets_handler(self, secrets_handler: Any) -> None:
        """Set the secrets handler, for use outside of a pipeline.

        Args:
            secrets_handler: A secrets handler of magnus.
        """
        self._secrets_handler = secrets_handler

    def prepare_run(self) -> None:
        """Prepare for a run that this process executes from its start to its end.

        If the process exits before the run has ended, the run is recorded as interrupted.

        Raises:
            RunExistsError: If a run with this id exists.
        """
        self._heartbeat.should_record_interruption = True
        # magnus checks this later, but its own error prints no text.
        if self._context and self.table.has(self._context.run_id, *fragments.HEADER):
            raise RunExistsError(self._context.run_id)

    def close(self) -> None:
        """Close the connection, and stop the heartbeat. The next call opens a new one."""
        self._heartbeat.close()
        if "database" in self.__dict__:
            with self.database.lock:
                self.database.close()
                self.__dict__.pop("table", None)  # A database in memory is deleted with its connection.

    def create_run_log(
        self,
        run_id: str,
        dag_hash: str = "",
        use_cached: bool = False,
        tag: str = "",
        original_run_id: str = "",
        status: str = defaults.CREATED,
        **kwargs: Any,
    ) -> RunLog:
        """Create the log of a new run.

        Args:
            run_id: The id of the new run.
            dag_hash: The hash of its pipeline.
            use_cached: Whether the run is a re-run of an earlier run.
            tag: A name that groups runs.
            original_run_id: The id of the earlier run.
            status: The status that the run starts with.

        Raises:
            RunExistsError: If a run with this id exists.
        """
        self._read_parameters.pop(run_id)
        run_log = RunLog(
            run_id=run_id,
            dag_hash=dag_hash,
            use_cached=use_cached,
            tag=tag,
            original_run_id=original_run_id,
            status=status,
        )
        if not self.table.insert(run_id, fragments.dump_header(run_log)):
            raise RunExistsError(run_id)
        if self.record_environment:
            self._heartbeat.run_without_environment = run_id
        self._after_write(run_id, status)
        return run_log

    def get_run_log_by_id(self, run_id: str, full: bool = False, **kwargs: Any) -> RunLog:
        """Return the log of a run.

        Args:
            run_id: The id of the run.
            full: Whether to include the steps and branches. The parameters are always included, because magnus' re-run
                and users of its SDK read them from here.

        Raises:
            RunLogNotFoundError: If there is no such run.
        """
        if full:
            rows = self.table.read(run_id, except_types=fragments.EXTRA)
        else:
            rows = self.table.read(run_id, fragments.RUN_LOG + fragments.PARAMETER)
        run_log = fragments.to_run_log(rows)
        if run_log is None:
            raise _MissingRunError(run_id)
        return run_log

    def put_run_log(self, run_log: RunLog, **kwargs: Any) -> None:
        """Write a run log with its parameters, steps and branches, atomically.

        Rows of the run that are not in the run log are kept.
        """
        self._read_parameters.pop(run_log.run_id)
        self.table.upsert(run_log.run_id, fragments.dump_run_log(run_log))
        self._after_write(run_log.run_id, run_log.status)

    def update_run_log_status(self, run_id: str, status: str) -> None:
        """Set the status of a run and change nothing else.

        Raises:
            RunLogNotFoundError: If there is no such run.
        """

        def set_status(run_log: RunLog) -> None:
            run_log.status = status

        self._change_header(run_id, set_status)
        self._after_write(run_id, status)

    def get_parameters(self, run_id: str, **kwargs: Any) -> Dict[str, Any]:
        """Return the parameters of a run by name.

        Raises:
            RunLogNotFoundError: If there is no such run.
        """
        rows = self.table.read(run_id, fragments.PARAMETER)
        parameters = fragments.to_parameters(rows)
        if not parameters:
            self._check_run(run_id)
        self._read_parameters.remember(run_id, {name: value for _, name, value in rows})
        return parameters

    def set_parameters(self, run_id: str, parameters: Dict[str, Any], **kwargs: Any) -> None:
        """Set parameters of a run, all or none. Its other parameters stay.

        magnus reads all parameters before a step, and sets all of them after it. A parallel step may have changed some
        of them in the meantime. So the store does not write values that are equal to those that this thread has read.
        This holds only if `parameters` has all names that the thread has read. Otherwise all values are written.

        Args:
            run_id: The id of the run.
            parameters: The values by name.

        Raises:
            RunLogNotFoundError: If there is no such run.
        """
        rows = fragments.dump_parameters(parameters)
        self._upsert(run_id, fragments.changed_parameters(rows, self._read_parameters.pop(run_id)))

    def get_run_config(self, run_id: str, **kwargs: Any) -> Dict[str, Any]:
        """Return the configuration that a run was started with, without secrets.

        Raises:
            RunLogNotFoundError: If there is no such run.
        """
        return dict(self.get_run_log_by_id(run_id).run_config)

    def set_run_config(self, run_id: str, run_config: Dict[str, Any], **kwargs: Any) -> None:
        """Add to the configuration that a run was started with.

        Args:
            run_id: The id of the run.
            run_config: The configuration. It is stored without secrets.

        Raises:
            RunLogNotFoundError: If there is no such run.
        """
        if self._is_executing(run_id):
            origin = this_process() if self.record_environment else this_process()._replace(python=None, magnus=None)
            run_config = {**run_config, STARTED_BY: origin._asdict()}
        self._change_header(run_id, lambda run_log: run_log.run_config.update(run_config))
        self._after_write(run_id)

    def get_step_log(self, internal_name: str, run_id: str, **kwargs: Any) -> StepLog:
        """Return the log of a step without its branches. The full run log has them.

        Raises:
            RunLogNotFoundError: If there is no such run.
            StepLogNotFoundError: If the run has no such step.
        """
        step_log = self._read_one(run_id, fragments.STEP, internal_name)
        if step_log is None:
            raise _MissingStepError(run_id, internal_name)
        return step_log

    def add_step_log(self, step_log: StepLog, run_id: str, **kwargs: Any) -> None:
        """Write the log of a new or changed step, with the branches in it.

        Raises:
            RunLogNotFoundError: If there is no such run.
            BranchLogNotFoundError: If the step's branch does not exist.
        """
        branch = fragments.parent_branch(step_log.internal_name)
        required = [(fragments.BRANCH, branch)] if branch else []
        if not self._upsert(run_id, fragments.dump_step(step_log), *required):
            raise _MissingBranchError(run_id, branch)

    def get_branch_log(self, internal_branch_name: str, run_id: str, **kwargs: Any) -> Union[BranchLog, RunLog]:
        """Return the log of a branch, or the run log if no branch is named.

        Args:
            internal_branch_name: The internal name of the branch; an empty string for the run.
            run_id: The id of the run.

        Returns:
            The branch log without its steps, or the run log. The full run log has the steps.

        Raises:
            RunLogNotFoundError: If there is no such run.
            BranchLogNotFoundError: If the run has no such branch.
        """
        if not internal_branch_name:
            return self.get_run_log_by_id(run_id)
        branch_log = self._read_one(run_id, fragments.BRANCH, internal_branch_name)
        if branch_log is None:
            raise _MissingBranchError(run_id, internal_branch_name)
        return branch_log

    def add_branch_log(self, branch_log: Union[BranchLog, RunLog], run_id: str, **kwargs: Any) -> None:
        """Write the log of a new or changed branch, with the steps in it.

        For the top level, magnus passes a run log instead of a branch log. Then only the run's own row is written: the
        other rows may be newer than the run log.

        Raises:
            RunLogNotFoundError: If there is no run to add a branch to.
        """
        if isinstance(branch_log, RunLog):
            self._upsert(branch_log.run_id, [fragments.dump_header(branch_log)])
            self._after_write(branch_log.run_id, branch_log.status)
        else:
            self._upsert(run_id, fragments.dump_branch(branch_log))

    @_MadeOnce
    def database(self) -> Backend:
        """The database. It connects when it is first used."""
        self._check_configuration()
        url = self.connection_string.get_secret_value()
        return make_database(url, self._get_secret, self.retry_timeout, self._folder, self._base)

    @_MadeOnce
    def table(self) -> RunTable:
        """The table, for queries that magnus' interface does not offer. The first use creates it if it is missing."""
        return open_table(self.database)

    @_MadeOnce
    def _read_parameters(self) -> _ReadParameters:
        return _ReadParameters()

    def _check_configuration(self) -> None:
        if self._config_errors:
            raise ConfigurationError(
                f"The configuration of the run log store 'db' is not valid: {'; '.join(self._config_errors)}. "
                f"Its keys are {', '.join(map(repr, CONFIG_KEYS))}."
            )

    def _get_secret(self, name: str) -> str:
        handler = self.secrets_handler
        if handler is None or isinstance(handler, DoNothingSecretManager):  # It answers every name with "".
            raise KeyError(name)
        try:
            return str(handler.get(name))
        except exceptions.SecretNotFoundError:
            raise KeyError(name) from None

    def _read_one(self, run_id: str, types: Tuple[str, ...], name: str) -> Any:
        """Return the parsed value of one row of a run; None if the run has no such row."""
        # One type at a time: PostgreSQL takes twice as long for two types, and only legacy rows have the second.
        for attribute_type in types:
            rows = self.table.read(run_id, (attribute_type,), name)
            if rows:
                return fragments.parse(*rows[-1])
        self._check_run(run_id)
        return None

    def _upsert(self, run_id: str, rows: List[fragments.Fragment], *required: Requirement) -> bool:
        """Write rows of an existing run. Return False if another required row is missing."""
        if not rows:
            self._check_run(run_id)
            return True
        while not self.table.upsert(run_id, rows, requires=[fragments.HEADER, *required]):
            self._check_run(run_id)
            if not all(self.table.has(run_id, types, name) for types, name in required):
                return False
            # Created concurrently; retry.
        self._after_write(run_id)
        return True

    def _is_executing(self, run_id: str) -> bool:
        """Return True if magnus executes the run in this process."""
        return self._context is not None and bool(self._context.run_id == run_id)

    def _after_write(self, run_id: str, status: str = "") -> None:
        """Start or stop the heartbeat, if magnus executes the run in this process.

        Args:
            run_id: The id of the run.
            status: The status of the run, if it was written.
        """
        if self._is_executing(run_id):
            self._heartbeat.after_write(self.table, run_id, has_ended=status in fragments.ENDED)

    def _change_header(self, run_id: str, change: Callable[[RunLog], None]) -> None:
        def changed(value: str) -> str:
            run_log = fragments.parse(fragments.RUN_LOG[0], fragments.RUN_LOG_KEY, value)
            change(run_log)
            return fragments.dump_header(run_log).attribute_value

        if not self.table.update(run_id, *fragments.HEADER, changed):
            raise _MissingRunError(run_id)

    def _check_run(self, run_id: str) -> None:
        if not self.table.has(run_id, *fragments.HEADER):
            raise _MissingRunError(run_id)


def _restore(config: Dict[str, Any], folder: str, base: str) -> DBStore:
    store = DBStore(**config)
    store.set_folder(folder, base)
    return store


def _masked_key(location: Tuple[Union[int, str], ...]) -> str:
    """Return a key of the configuration, masked if it may be a mistyped `key:value` with a secret."""
    key = str(location[0])
    return key if re.fullmatch(r"\w+", key) else MASK
