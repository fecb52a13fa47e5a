"""Container engines for the tests: one with Docker's API, or else mount namespaces."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from importlib import metadata
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any, Dict, Iterator, List, Set

import docker
from packaging.requirements import Requirement

import magnus_peewee_store

# magnus knows no other socket.
SOCKET = Path("/var/run/docker.sock")
BASE = "magnus-peewee-store-tests"
STAND_IN = Path(__file__).parent / "stand_in"

CONFIGURATION = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
netns = "host"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
"""


class MissingError(Exception):
    """A test needs something that is not here. The message says what."""


class Docker:
    """Real containers. Their images have this Python, magnus and the store at the same paths as this machine."""

    environment: Dict[str, str] = {}

    def __init__(self) -> None:
        self._client = docker.from_env(timeout=120)
        with tempfile.NamedTemporaryFile() as image:
            with tarfile.open(fileobj=image, mode="w", dereference=True) as tar:
                for path in python_and_packages():
                    tar.add(str(path))
                for name in ("project", "tmp"):
                    folder = tarfile.TarInfo(name)
                    folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
                    tar.addfile(folder)
            image.seek(0)
            changes = [f"ENV PATH={Path(sys.executable).parent}:/usr/bin:/bin", "WORKDIR /project"]
            self._client.api.import_image_from_file(image.name, repository=BASE, tag="latest", changes=changes)

    def name(self, folder: Path) -> str:
        """Return the name of a project's image."""
        return f"{BASE}:{folder.name}"

    def make(self, folder: Path) -> None:
        """Build a project's image."""
        (folder / "Dockerfile").write_text(f"FROM {BASE}\nCOPY . /project\n")
        self._client.images.build(path=str(folder), tag=self.name(folder), rm=True)

    def remove(self) -> None:
        """Delete the images."""
        for image in self._client.images.list():
            if any(BASE in tag for tag in image.tags):
                self._client.images.remove(image.id, force=True)
        self._client.close()


class Namespaces:
    """Processes in mount namespaces, which see a mounted folder only where a container would have it."""

    environment = {"PYTHONPATH": str(STAND_IN)}

    def name(self, folder: Path) -> str:
        """Return the project's folder, which takes the place of an image."""
        return str(folder)

    def make(self, folder: Path) -> None:
        """Do nothing: the folder needs no build."""


@contextlib.contextmanager
def real_engine() -> Iterator[Docker]:
    """Return the running Docker engine, or start podman's and stop it at the end.

    Raises:
        MissingError: If no engine runs and none can be started.
    """
    with contextlib.ExitStack() as stack:
        if not _answers():
            stack.enter_context(_podman())
        engine = Docker()
        stack.callback(engine.remove)
        yield engine


@contextlib.contextmanager
def namespaces() -> Iterator[Namespaces]:
    """Return mount namespaces.

    Raises:
        MissingError: If this user cannot create any.
    """
    root = [] if os.geteuid() == 0 else ["--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run(["unshare", *root, "--mount", "true"]).returncode:
        raise MissingError("Cannot create mount namespaces. This needs `unshare --mount` and the right to run it.")
    yield Namespaces()


def _answers() -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(SOCKET)) == 0


@contextlib.contextmanager
def _podman() -> Iterator[None]:
    lacking = [program for program in ("podman", "runc", "unshare") if shutil.which(program) is None]
    if lacking:
        raise MissingError(f"No Docker engine answers. To start one: apt-get install {' '.join(lacking)}")
    if os.geteuid() != 0 or SOCKET.exists():
        raise MissingError(f"No Docker engine answers at {SOCKET}. Only root can start one there.")
    with tempfile.TemporaryDirectory(prefix="podman-") as folder:
        home = Path(folder)
        (home / "containers.conf").write_text(CONFIGURATION)
        (home / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{home}/storage"\nrunroot = "{home}/run"\n'
        )
        environment = {
            **os.environ,
            "CONTAINERS_CONF": str(home / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(home / "storage.conf"),
        }
        with (home / "log").open("w+") as log:
            # podman's mounts are in their own namespace, which ends with it.
            service = subprocess.Popen(
                ["unshare", "--mount", "podman", "system", "service", "--time=0", f"unix://{SOCKET}"],
                env=environment,
                stdout=log,
                stderr=log,
            )
            try:
                give_up_at = time.monotonic() + 20
                while not _answers():
                    if service.poll() is not None or time.monotonic() > give_up_at:
                        log.seek(0)
                        raise MissingError(f"podman does not start: {log.read()[-500:]}")
                    time.sleep(0.1)
                yield
            finally:
                service.terminate()
                service.wait()
                with contextlib.suppress(FileNotFoundError):
                    SOCKET.unlink()


def python_and_packages() -> Set[Path]:
    """Return the files of this Python, magnus, the store and its drivers, with the libraries that they link to."""
    standard, installed = (Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib"))
    left_out = ("config-", "ensurepip", "idlelib", "lib2to3", "site-packages", "test", "tkinter", "turtle")
    files = {Path(sys.executable), Path(sys.executable).resolve(), Path(sys.prefix, "pyvenv.cfg")}
    # Installed in editable mode or not.
    files |= {*Path(magnus_peewee_store.__file__).parent.rglob("*"), *installed.glob("*magnus_peewee_store*")}
    files |= {path for folder in installed.glob("magnus_peewee_store*") for path in folder.rglob("*")}
    files |= {path for path in standard.rglob("*") if not path.relative_to(standard).parts[0].startswith(left_out)}
    for distribution in _distributions("magnus-peewee-store[postgres,mysql]", "psycopg2-binary"):
        files |= {Path(os.path.normpath(distribution.locate_file(each))) for each in distribution.files or []}
    # The bytecode too, so that no container compiles again. pip lists it among the files of a package, uv does not.
    files |= {Path(cache_from_source(str(path))) for path in files if path.suffix == ".py"}
    linked = [str(path) for path in files if ".so" in path.suffixes or path == Path(sys.executable)]
    listed = subprocess.run(["ldd", *linked], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    files |= {Path(os.path.normpath(word)) for word in listed.split() if word.startswith("/")}
    return {path for path in files if path.is_file()}


def _distributions(*requirements: str) -> List[Any]:
    found: Dict[str, Any] = {}
    wanted = list(requirements)
    while wanted:
        requirement = Requirement(wanted.pop())
        if str(requirement) not in found:
            found[str(requirement)] = metadata.distribution(requirement.name)
            for each in map(Requirement, found[str(requirement)].requires or []):
                extras = ("", *requirement.extras)
                if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in extras):
                    wanted.append(str(each).partition(";")[0])
    return list(found.values())
