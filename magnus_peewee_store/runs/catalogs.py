"""The data of runs in magnus' file-system catalog, which keeps a folder per run."""

import shutil
from pathlib import Path
from typing import Dict, Iterable, List, Sequence

from magnus_peewee_store import fragments
from magnus_peewee_store.exceptions import UnreadableRowError
from magnus_peewee_store.runs.listing import BATCH_SIZE, batches
from magnus_peewee_store.store import DBStore


def find_catalogs(store: DBStore, run_ids: Sequence[str]) -> Dict[str, List[str]]:
    """Return the ids of runs by the location of their file-system catalog. Runs without such a catalog are left out.

    Args:
        run_ids: The whole ids.
    """
    found: Dict[str, List[str]] = {}
    for batch in batches(run_ids, BATCH_SIZE):
        for row in store.table.read_runs(batch, fragments.RUN_LOG):
            try:
                handler = fragments.parse(*row.fragment).run_config.get("catalog_handler")
            except UnreadableRowError:
                continue
            if isinstance(handler, dict) and handler.get("service_name") == "file-system":
                found.setdefault(str(handler.get("catalog_location")), []).append(row.run_id)
    return found


def run_folders(catalog: Path, run_ids: Iterable[str]) -> Dict[str, Path]:
    """Return the folders of runs that exist in a catalog, by the run's id. No folder is outside of the catalog."""
    names = (run_id for run_id in run_ids if run_id not in (".", "..") and Path(run_id).name == run_id)
    folders = {name: catalog / name for name in names}
    return {run_id: path for run_id, path in folders.items() if path.is_dir() and not path.is_symlink()}


def delete_folder(folder: Path) -> None:
    """Delete the folder of a run.

    Raises:
        OSError: If it cannot be deleted.
    """
    shutil.rmtree(folder)
