"""What runs the containers of the tests: an engine that answers Docker's API, or else mount namespaces."""

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
from pathlib import Path
from typing import Any, Dict, Iterator, List, Set

import docker
from packaging.requirements import Requirement

import magnus_peewee_store

# magnus asks here and nowhere else.
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
    """What a test lacks, in a sentence."""


class Docker:
    """Real containers, whose images have this Python, magnus and the store at the places where they are here."""

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
        """Name the image of a project."""
        return f"{BASE}:{folder.name}"

    def make(self, folder: Path) -> None:
        """Make the image of a project."""
        (folder / "Dockerfile").write_text(f"FROM {BASE}\nCOPY . /project\n")
        self._client.images.build(path=str(folder), tag=self.name(folder), rm=True)

    def remove(self) -> None:
        """Remove the images."""
        for image in self._client.images.list():
            if any(BASE in tag for tag in image.tags):
                self._client.images.remove(image.id, force=True)
        self._client.close()


class Namespaces:
    """Processes in mount namespaces, which have a mounted folder where a container would have it, and only there."""

    environment = {"PYTHONPATH": str(STAND_IN)}

    def name(self, folder: Path) -> str:
        """Name the image of a project: it is the folder itself."""
        return str(folder)

    def make(self, folder: Path) -> None:
        """Make nothing: it is there."""


@contextlib.contextmanager
def real_engine() -> Iterator[Docker]:
    """An engine: the one that answers, or podman's, started for as long as this lasts.

    Raises:
        MissingError: If there is none, and none can be started.
    """
    with contextlib.ExitStack() as stack:
        if not _answers():
            stack.enter_context(_podman())
        engine = Docker()
        stack.callback(engine.remove)
        yield engine


@contextlib.contextmanager
def namespaces() -> Iterator[Namespaces]:
    """Mount namespaces.

    Raises:
        MissingError: If the system has none for us.
    """
    root = [] if os.geteuid() == 0 else ["--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run(["unshare", *root, "--mount", "true"]).returncode:
        raise MissingError("Mount namespaces cannot be made here: it takes `unshare --mount`, and the right to")
    yield Namespaces()


def _answers() -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(SOCKET)) == 0


@contextlib.contextmanager
def _podman() -> Iterator[None]:
    lacking = [program for program in ("podman", "runc", "unshare") if shutil.which(program) is None]
    if lacking:
        raise MissingError(f"No Docker engine answers, and to start one: apt-get install {' '.join(lacking)}")
    if os.geteuid() != 0 or SOCKET.exists():
        raise MissingError(f"No Docker engine answers at {SOCKET}, and only root may start one there")
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
            # Its mounts are in a namespace of their own, and gone with it.
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
                        raise MissingError(f"podman does not start here: {log.read()[-500:]}")
                    time.sleep(0.1)
                yield
            finally:
                service.terminate()
                service.wait()
                with contextlib.suppress(FileNotFoundError):
                    SOCKET.unlink()


def python_and_packages() -> Set[Path]:
    """The files of this Python, of magnus, of the store, of its drivers, and the libraries that they are linked to."""
    standard, installed = (Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib"))
    left_out = ("config-", "ensurepip", "idlelib", "lib2to3", "site-packages", "test", "tkinter", "turtle")
    files = {Path(sys.executable), Path(sys.executable).resolve(), Path(sys.prefix, "pyvenv.cfg")}
    # Installed in place or not.
    files |= {*Path(magnus_peewee_store.__file__).parent.rglob("*.py"), *installed.glob("*magnus_peewee_store*")}
    files |= {path for folder in installed.glob("magnus_peewee_store*") for path in folder.rglob("*")}
    files |= {path for path in standard.rglob("*") if not path.relative_to(standard).parts[0].startswith(left_out)}
    for distribution in _distributions("magnus-peewee-store[postgres,mysql]", "psycopg2-binary"):
        files |= {Path(os.path.normpath(distribution.locate_file(each))) for each in distribution.files or []}
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
