"""Adapt the store to each executor. magnus loads these classes through the entry point group `integration`."""

import logging
import os
from typing import Any, Optional

from magnus.integration import BaseIntegration

from magnus_peewee_store.db.sqlite import MEMORY
from magnus_peewee_store.exceptions import ConfigurationError

logger = logging.getLogger("magnus.db")

# The folder of run logs in magnus' containers. magnus' own constant ends in a slash, which podman refuses.
CONTAINER_FOLDER = "/tmp/run_logs"  # noqa: S108


class _DBIntegration(BaseIntegration):
    """Base class of the integrations.

    magnus also collects all direct subclasses of `BaseIntegration`, and refuses a class that it finds twice. This class
    stands in between, so that magnus finds the integrations by their entry points only.
    """


class LocalIntegration(_DBIntegration):
    """The store with the executor `local`: every database works."""

    executor_type = "local"
    service_type = "run_log_store"
    service_provider = "db"

    def configure_for_traversal(self, **kwargs: Any) -> None:
        """Refuse the id of an existing run, and warn that magnus fails with `enable_parallel`, before anything runs."""
        self.service.prepare_run()
        if self.executor.enable_parallel:
            logger.warning(
                "enable_parallel: magnus 0.5.1 fails at the end of the first parallel or map step, with a TypeError "
                "about 'map_variable'. Every run log store is affected. Remove enable_parallel. To run branches in "
                "parallel, use the executor 'local-parallel'."
            )


class LocalParallelIntegration(_DBIntegration):
    """The store with the executor `local-parallel`: every database works that several processes can share."""

    executor_type = "local-parallel"
    service_type = "run_log_store"
    service_provider = "db"

    def configure_for_traversal(self, **kwargs: Any) -> None:
        """Refuse a database in memory, and the id of an existing run, before anything runs."""
        _refuse_memory(self.service.find_file(), "the processes of parallel branches")
        self.service.prepare_run()


class MockedIntegration(LocalIntegration):
    """The store with the executor `mocked`, which runs where `local` does."""

    executor_type = "mocked"


class LocalContainerIntegration(LocalIntegration):
    """The store with the executor `local-container`: the folder of an SQLite file is mounted into the containers."""

    executor_type = "local-container"

    def validate(self, **kwargs: Any) -> None:
        """Refuse a database in memory."""
        # In a container, magnus tells the secrets handler the path of its file only after this check.
        _refuse_memory(self.service.find_file(should_use_secrets=False), "containers")

    def configure_for_traversal(self, **kwargs: Any) -> None:
        """Mount the folder of the SQLite file, with its write-ahead log, into every container."""
        super().configure_for_traversal()
        file = self.service.find_file()
        _refuse_memory(file, "containers")
        if file is None:
            return
        folder, name = os.path.split(os.path.realpath(file))
        if name != os.path.basename(file):
            raise ConfigurationError(
                "The SQLite file of the run log store is a symbolic link to a file with another name, which a "
                "container would not find. Use the name of that file in the connection string."
            )
        if ":" in folder:
            raise ConfigurationError(
                "The SQLite file of the run log store is in a folder with a colon in its path, which Docker cannot "
                "mount. Rename the folder."
            )
        # The key ends in a slash, because the file-system catalog in the same folder uses the key without one.
        self.executor._volumes[os.path.join(folder, "")] = {"bind": CONTAINER_FOLDER, "mode": "rw"}

    def configure_for_execution(self, **kwargs: Any) -> None:
        """Use the SQLite file in the mounted folder, inside a container."""
        self.service.set_folder(CONTAINER_FOLDER)


class ArgoIntegration(_DBIntegration):
    """The store with the executor `argo`: only a server works, because pods share no file."""

    executor_type = "argo"
    service_type = "run_log_store"
    service_provider = "db"

    def validate(self, **kwargs: Any) -> None:
        """Refuse SQLite when the workflow is rendered, or in the first pod if only pods have the secrets."""
        if self.service.find_file() is not None:
            raise ConfigurationError(
                "The run log store's database is SQLite, which the pods of an Argo workflow cannot share. "
                "Use a server in the connection string: postgresql://user:password@host:5432/database"
            )


def _refuse_memory(file: Optional[str], readers: str) -> None:
    if file == MEMORY:
        raise ConfigurationError(
            f"The run log store's database is in memory, where {readers} cannot see it. "
            "Use a file in the connection string, as in sqlite:///runs.db, or a server."
        )
