"""Which process this is: its user, host, folder and UTC offset."""

import functools
import getpass
import importlib.metadata
import os
import platform
import re
import socket
import sys
from typing import Any, Dict, List, NamedTuple, Optional

from magnus_peewee_store.scrub import scrub_remote
from magnus_peewee_store.times import local_utc_offset

_GIT_REMOTE = re.compile(r"(?:[\w+.-]+://)?(?:git@)?(?P<host>[^:/]+)(?::\d+(?=/))?[:/](?P<path>.+?)(?:\.git)?/?")


_TEXTS = ("user", "host", "folder", "python", "magnus", "script")


class Origin(NamedTuple):
    """Who runs a process, and where. None means unknown."""

    user: Optional[str] = None
    host: Optional[str] = None
    folder: Optional[str] = None
    """The name of its working folder, without the path."""
    utc_offset: Optional[int] = None
    """The offset of its local time from UTC, in seconds."""
    python: Optional[str] = None
    """The version of Python."""
    magnus: Optional[str] = None
    """The version of magnus."""
    script: Optional[str] = None
    """The script or notebook that it runs, relative to the working folder."""

    @property
    def environment(self) -> Optional[str]:
        """The versions as text."""
        return f"Python {self.python}, magnus {self.magnus}" if self.python and self.magnus else None


def this_process() -> Origin:
    """Return the origin of this process."""
    folder = os.path.basename(os.getcwd()) or None
    versions = platform.python_version(), _magnus_version()
    return Origin(_user(), _host(), folder, local_utc_offset(), *versions, _script())


def parse_origin(value: Any) -> Origin:
    """Return the origin that a dictionary holds. A value of the wrong type becomes None."""
    known: Dict[str, Any] = value if isinstance(value, dict) else {}
    texts = {name: known[name] for name in _TEXTS if isinstance(known.get(name), str)}
    utc_offset = known.get("utc_offset")
    is_offset = isinstance(utc_offset, int) and abs(utc_offset) < 86400
    return Origin(**texts, utc_offset=utc_offset if is_offset else None)


def repository_name(url: str) -> str:
    """Return the name of a git remote without credentials, such as `github.com/team/project`.

    The name is the same for HTTPS and SSH URLs.
    """
    clean = scrub_remote(url)
    parts = _GIT_REMOTE.fullmatch(clean)
    return f"{parts['host']}/{parts['path']}" if parts else clean.rstrip("/")


@functools.lru_cache(maxsize=None)
def _magnus_version() -> str:
    return importlib.metadata.version("magnus")


def installed_packages() -> List[str]:
    """Return the packages that this process can import, as `name==version`. Reading them takes about 0.1 s."""
    versions: Dict[str, str] = {}
    for each in importlib.metadata.distributions():
        name = each.metadata["Name"]
        if name and each.version:
            versions.setdefault(name, each.version)  # Python imports the first one that it finds.
    return [f"{name}=={versions[name]}" for name in sorted(versions, key=str.lower)]


def _user() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # A container may run with a user id that has no name.
        return str(os.getuid())


def _script() -> Optional[str]:
    # Jupyter sets the variable to the path of the notebook.
    path = getattr(sys.modules["__main__"], "__file__", None) or os.environ.get("JPY_SESSION_NAME")
    return os.path.relpath(path) if path else None


def _host() -> str:
    # A row's key cannot contain the lone surrogates that stand for undecodable bytes of the name.
    return socket.gethostname().encode("ascii", "backslashreplace").decode()
