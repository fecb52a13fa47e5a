"""What each of magnus' executors needs of the store: magnus finds it by the entry points of the group `integration`."""

import logging
import os
from typing import Any, Optional

from magnus.integration import BaseIntegration

from magnus_peewee_store.connection import MEMORY, ConnectionStringError

logger = logging.getLogger("magnus.db")

# Where magnus has containers look for their run logs, without the slash at its end, which podman refuses.
CONTAINER_FOLDER = "/tmp/run_logs"  # noqa: S108


class _FoundOnce(BaseIntegration):
    """Between magnus' base and ours: every direct subclass of its base magnus finds a second time, and refuses both."""


class Local(_FoundOnce):
    """The store with the executor `local`: any database will do."""

    executor_type = "local"
    service_type = "run_log_store"
    service_provider = "db"

    def configure_for_traversal(self, **kwargs: Any) -> None:
        """Warn, once and before anything runs, of what magnus makes of `enable_parallel`."""
        if self.executor.enable_parallel:
            logger.warning(
                "enable_parallel: magnus 0.5.1 fails at the end of the first parallel or map step, whatever the store, "
                "with a TypeError about 'map_variable'. Leave enable_parallel out."
            )


class Mocked(Local):
    """The store with the executor `mocked`, which runs where `local` does."""

    executor_type = "mocked"


class LocalContainer(Local):
    """The store with the executor `local-container`: an SQLite file's folder is mounted into the containers."""

    executor_type = "local-container"

    def validate(self, **kwargs: Any) -> None:
        """Refuse a database in memory.

        Raises:
            ConnectionStringError: If the connection string says so, or cannot be used at all.
        """
        # Inside a container too, where the secrets handler is not told until later where its file is: no secrets.
        _refuse_memory(self.service.find_file(with_secrets=False))

    def configure_for_traversal(self, **kwargs: Any) -> None:
        """Have the folder of an SQLite file, where its write-ahead log is too, mounted into every container.

        Raises:
            ConnectionStringError: If it is in memory after all, or cannot be mounted.
        """
        super().configure_for_traversal()
        file = self.service.find_file()
        _refuse_memory(file)
        if file is None:
            return
        folder, name = os.path.split(os.path.realpath(file))
        if name != os.path.basename(file):
            raise ConnectionStringError(
                "The SQLite file of the run log store is a symbolic link to one of another name, which a container "
                "would not find. Let the connection string name that file itself."
            )
        if ":" in folder:
            raise ConnectionStringError(
                "The SQLite file of the run log store is in a folder with a colon in its path, which Docker cannot "
                "mount. Give the folder another name."
            )
        # With a slash at its end: the file-system catalog, if it is in the same folder, takes the key without one.
        self.executor._volumes[os.path.join(folder, "")] = {"bind": CONTAINER_FOLDER, "mode": "rw"}

    def configure_for_execution(self, **kwargs: Any) -> None:
        """Have the store, inside a container, look for an SQLite file where its folder is mounted."""
        self.service.look_in(CONTAINER_FOLDER)


class Argo(_FoundOnce):
    """The store with the executor `argo`: a server, which all pods reach."""

    executor_type = "argo"
    service_type = "run_log_store"
    service_provider = "db"

    def validate(self, **kwargs: Any) -> None:
        """Refuse SQLite: where the workflow is rendered, or in its first pod if the secrets are only there.

        Raises:
            ConnectionStringError: If it is SQLite, or the connection string cannot be used at all.
        """
        if self.service.find_file() is not None:
            raise ConnectionStringError(
                "The run log store's database is SQLite, which the pods of an Argo workflow do not share. "
                "Let the connection string name a server: postgresql://user:password@host:5432/database"
            )


def _refuse_memory(file: Optional[str]) -> None:
    if file == MEMORY:
        raise ConnectionStringError(
            "The run log store's database is in memory, where a container does not see it. Let the connection string "
            "name a file, as in sqlite:///runs.db, or a server."
        )
