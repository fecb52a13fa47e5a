"""The run log store: magnus' `BaseRunLogStore`, each method a few lines over fragments and rows."""

import functools
import re
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

from magnus import defaults, exceptions
from magnus.datastore import BaseRunLogStore, BranchLog, RunLog, StepLog
from magnus.secrets import DoNothingSecretManager
from pydantic import ConfigDict, Field, PrivateAttr, SecretStr, ValidationError, field_serializer

from magnus_peewee_store import fragments
from magnus_peewee_store.connection import ConnectionStringError, find_file, make_database, mask, no_secrets
from magnus_peewee_store.databases import MASK, RETRY_SECONDS
from magnus_peewee_store.db import Key, LogTable

DEFAULT_CONNECTION_STRING = f"sqlite:///{defaults.LOG_LOCATION_FOLDER}/run_log.db"

RUN = (fragments.RUN_LOG, fragments.RUN_LOG_KEY)


def _readable(error: Exception) -> Exception:
    """Give an exception of magnus' its message as its text, which magnus leaves empty."""
    error.args = (error.message,)  # type: ignore[attr-defined]
    return error


def _key(location: Tuple[Union[int, str], ...]) -> str:
    """Name a key of the configuration: unless it is a mistyped `key:value`, whose value is not to be told."""
    name = str(location[0])
    return name if re.fullmatch(r"\w+", name) else MASK


class DBStore(BaseRunLogStore):
    """A run log store in a database, a row a fragment, which any number of processes may write at once.

    It connects at its first use: magnus makes it before there are secrets to fill in.

    Args:
        connection_string: The URL of the database, with or without `${placeholders}` for secrets. By default an
            SQLite file in the folder `.run_log_store`.
        retry_timeout: For how many seconds a call tries again while the database is away, or busy, before it raises.

    Example:
        In magnus' configuration::

            run_log_store:
              type: db
              config:
                connection_string: sqlite:///runs.db
    """

    service_name: str = "db"
    connection_string: SecretStr = SecretStr(DEFAULT_CONNECTION_STRING)
    retry_timeout: float = Field(default=RETRY_SECONDS, ge=0)

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    _table: Dict[str, LogTable] = PrivateAttr(default_factory=dict)
    _mistakes: List[str] = PrivateAttr(default_factory=list)
    _folder: str = PrivateAttr(default="")

    def __init__(self, **config: Any) -> None:
        try:
            super().__init__(**config)
        except ValidationError as error:
            # Raised from here, magnus would put the config, and a password in it, into an error of its own. It is
            # told at the first use instead.
            super().__init__()
            self._mistakes = [f"'{_key(each['loc'])}': {each['msg']}" for each in error.errors()]

    @field_serializer("connection_string")
    def _masked(self, connection_string: SecretStr) -> str:
        # magnus prints the dump of its context, and keeps it in the run config.
        return mask(connection_string.get_secret_value())

    def find_file(self, with_secrets: bool = True) -> Optional[str]:
        """Tell which file the database is, without opening it.

        Args:
            with_secrets: Whether secrets may be asked for.

        Returns:
            The absolute path of an SQLite file, or `:memory:`; None for a server, and where it takes a secret that
            cannot be had to tell.

        Raises:
            ConnectionStringError: If the configuration has mistakes.
        """
        self._check_configuration()
        return find_file(self.connection_string.get_secret_value(), self._secret if with_secrets else no_secrets)

    def look_in(self, folder: str) -> None:
        """Look for an SQLite file elsewhere: inside a container, where its folder is mounted.

        Args:
            folder: The folder that the file is in, whatever the connection string says.
        """
        self._folder = folder

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._table:
            self.table.close()

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
            run_id: The id of the run.
            dag_hash: The hash of its pipeline.
            use_cached: Whether it is the re-run of another.
            tag: Its tag.
            original_run_id: The run that it is a re-run of.
            status: Its status.

        Returns:
            The run log.

        Raises:
            RunLogExistsError: If there is a run of that id.
        """
        run_log = RunLog(
            run_id=run_id,
            dag_hash=dag_hash,
            use_cached=use_cached,
            tag=tag,
            original_run_id=original_run_id,
            status=status,
        )
        if not self.table.insert(run_id, fragments.of_header(run_log)):
            raise _readable(exceptions.RunLogExistsError(run_id))
        return run_log

    def get_run_log_by_id(self, run_id: str, full: bool = False, **kwargs: Any) -> RunLog:
        """Get the log of a run.

        Args:
            run_id: The id of the run.
            full: Whether its steps and branches are wanted too. Its parameters are there either way: magnus' re-run
                and the SDK's users take them from here.

        Returns:
            The run log.

        Raises:
            RunLogNotFoundError: If there is no such run.
        """
        rows = self.table.read(run_id, None if full else (fragments.RUN_LOG + fragments.PARAMETER, None))
        run_log = fragments.to_run_log(rows)
        if run_log is None:
            raise _readable(exceptions.RunLogNotFoundError(run_id))
        return run_log

    def put_run_log(self, run_log: RunLog, **kwargs: Any) -> None:
        """Write a run log with all that it holds, at once: parameters, steps and branches too.

        What the database has and it does not hold stays.

        Args:
            run_log: The run log.
        """
        self.table.upsert(run_log.run_id, fragments.of_run_log(run_log))

    def update_run_log_status(self, run_id: str, status: str) -> None:
        """Set the status of a run, and touch nothing else of it.

        Args:
            run_id: The id of the run.
            status: Its new status.

        Raises:
            RunLogNotFoundError: If there is no such run.
        """

        def change(run_log: RunLog) -> None:
            run_log.status = status

        self._change_header(run_id, change)

    def get_parameters(self, run_id: str, **kwargs: Any) -> Dict[str, Any]:
        """Get the parameters of a run.

        Args:
            run_id: The id of the run.

        Returns:
            The parameters by name.

        Raises:
            RunLogNotFoundError: If there is no such run.
        """
        parameters = fragments.to_parameters(self.table.read(run_id, (fragments.PARAMETER, None)))
        if not parameters:
            self._check_run(run_id)
        return parameters

    def set_parameters(self, run_id: str, parameters: Dict[str, Any], **kwargs: Any) -> None:
        """Set parameters of a run, all or none; the run's others stay.

        Args:
            run_id: The id of the run.
            parameters: The parameters by name.

        Raises:
            RunLogNotFoundError: If there is no such run.
        """
        self._upsert(run_id, fragments.of_parameters(parameters))

    def get_run_config(self, run_id: str, **kwargs: Any) -> Dict[str, Any]:
        """Get the configuration that a run was started with.

        Args:
            run_id: The id of the run.

        Returns:
            The configuration, without what its secrets handler held.

        Raises:
            RunLogNotFoundError: If there is no such run.
        """
        return dict(self.get_run_log_by_id(run_id).run_config)

    def set_run_config(self, run_id: str, run_config: Dict[str, Any], **kwargs: Any) -> None:
        """Add to the configuration that a run was started with.

        Args:
            run_id: The id of the run.
            run_config: The configuration; of its secrets handler only the name is kept.

        Raises:
            RunLogNotFoundError: If there is no such run.
        """
        self._change_header(run_id, lambda run_log: run_log.run_config.update(run_config))

    def get_step_log(self, internal_name: str, run_id: str, **kwargs: Any) -> StepLog:
        """Get the log of a step.

        Args:
            internal_name: The internal name of the step.
            run_id: The id of the run.

        Returns:
            The step log, without its branches: a full run log has them.

        Raises:
            RunLogNotFoundError: If there is no such run.
            StepLogNotFoundError: If the run has no such step.
        """
        value = self._read_one(run_id, fragments.STEP, internal_name)
        if value is None:
            raise _readable(exceptions.StepLogNotFoundError(run_id, internal_name))
        return fragments.to_step(value)

    def add_step_log(self, step_log: StepLog, run_id: str, **kwargs: Any) -> None:
        """Write the log of a step, new or changed, and the branches that it holds.

        Args:
            step_log: The step log.
            run_id: The id of the run.

        Raises:
            RunLogNotFoundError: If there is no such run.
            BranchLogNotFoundError: If the branch that its name places it in is not in the run.
        """
        branch = fragments.parent_branch(step_log.internal_name)
        required = [(fragments.BRANCH, branch)] if branch else []
        if not self._upsert(run_id, fragments.of_step(step_log), *required):
            raise _readable(exceptions.BranchLogNotFoundError(run_id, branch))

    def get_branch_log(self, internal_branch_name: str, run_id: str, **kwargs: Any) -> Union[BranchLog, RunLog]:
        """Get the log of a branch, or of the run where no branch is named.

        Args:
            internal_branch_name: The internal name of the branch; empty for the run.
            run_id: The id of the run.

        Returns:
            The branch log, without its steps: a full run log has them. Or the run log.

        Raises:
            RunLogNotFoundError: If there is no such run.
            BranchLogNotFoundError: If the run has no such branch.
        """
        if not internal_branch_name:
            return self.get_run_log_by_id(run_id)
        value = self._read_one(run_id, fragments.BRANCH, internal_branch_name)
        if value is None:
            raise _readable(exceptions.BranchLogNotFoundError(run_id, internal_branch_name))
        return fragments.to_branch(value)

    def add_branch_log(self, branch_log: Union[BranchLog, RunLog], run_id: str, **kwargs: Any) -> None:
        """Write the log of a branch, new or changed, and the steps that it holds.

        Of a run log, which magnus hands in for the branch without a name, only what is the run's own is written:
        others may have set parameters since it was read.

        Args:
            branch_log: The branch log, or the run log.
            run_id: The id of the run.

        Raises:
            RunLogNotFoundError: If there is no such run to add a branch to.
        """
        if isinstance(branch_log, RunLog):
            self.table.upsert(branch_log.run_id, [fragments.of_header(branch_log)])
        else:
            self._upsert(run_id, fragments.of_branch(branch_log))

    @functools.cached_property
    def table(self) -> LogTable:
        """The rows of the database, for what the run log store's interface has no method for."""
        # Of two threads that come at once, the later takes what the first has made.
        return self._table.setdefault("", self._open())

    def _open(self) -> LogTable:
        self._check_configuration()
        url = self.connection_string.get_secret_value()
        return LogTable(make_database(url, self._secret, self.retry_timeout, self._folder))

    def _check_configuration(self) -> None:
        if self._mistakes:
            raise ConnectionStringError(
                f"The configuration of the run log store 'db' has mistakes: {'; '.join(self._mistakes)}. "
                "Its keys are 'connection_string' and 'retry_timeout'."
            )

    def _secret(self, name: str) -> str:
        handler = self._context.secrets_handler if self._context else None
        if handler is None or isinstance(handler, DoNothingSecretManager):  # which answers any name with ""
            raise KeyError(name)
        try:
            return str(handler.get(name))
        except exceptions.SecretNotFoundError:
            raise KeyError(name) from None

    def _read_one(self, run_id: str, types: Tuple[str, ...], name: str) -> Optional[str]:
        """Read the value of a row of a run that is there; None if the run has no such row."""
        # One type at a time: PostgreSQL takes twice as long to look for two, and only old rows are of the second.
        for kind in types:
            rows = self.table.read(run_id, ((kind,), name))
            if rows:
                return rows[-1][2]
        self._check_run(run_id)
        return None

    def _upsert(self, run_id: str, rows: List[fragments.Fragment], *required: Key) -> bool:
        """Write rows of a run that is there; False if what else they require is not."""
        if not rows:
            self._check_run(run_id)
        while rows and not self.table.upsert(run_id, rows, requires=[RUN, *required]):
            self._check_run(run_id)
            if not all(self.table.has(run_id, key) for key in required):
                return False
            # It has come to be in between: now they can be written.
        return True

    def _change_header(self, run_id: str, change: Callable[[RunLog], None]) -> None:
        def changed(value: str) -> str:
            run_log = fragments.to_header(value)
            change(run_log)
            return fragments.of_header(run_log).attribute_value

        if not self.table.update(run_id, RUN, changed):
            raise _readable(exceptions.RunLogNotFoundError(run_id))

    def _check_run(self, run_id: str) -> None:
        if not self.table.has(run_id, RUN):
            raise _readable(exceptions.RunLogNotFoundError(run_id))
