"""Replacement for the package `docker` in tests without a Docker engine.

A container is a process in its own mount namespace, and an image is a folder. As in a real container, a mounted folder
is visible only at its mount point.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, Iterator, List

NAMESPACE = ["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), "--mount"]
_started: Dict[str, "subprocess.Popen[bytes]"] = {}


class Container:
    def __init__(self, image: str, command: str, volumes: Dict[str, Any], environment: Dict[str, str]) -> None:
        self.id = str(len(_started))
        self._image, self._command, self._environment = image, command, environment
        self._volumes = {Path(source): Path(volume["bind"]) for source, volume in volumes.items()}

    def start(self) -> None:
        mounts: List[str] = []
        for source, target in self._volumes.items():
            if source.is_dir():
                target.mkdir(exist_ok=True)
            else:
                target.touch()
            mounts.append(f"mount --bind {shlex.quote(str(source))} {target}")
        mounts += [f"mount -t tmpfs none {shlex.quote(str(each))}" for each in self._volumes if each.is_dir()]
        _started[self.id] = subprocess.Popen(
            [*NAMESPACE, "sh", "-ec", "\n".join([*mounts, f"exec {self._command}"])],
            cwd=self._image,
            env={"PATH": f"{Path(sys.executable).parent}:{os.defpath}:/usr/sbin", **self._environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def remove(self, force: bool) -> None:
        for target in self._volumes.values():
            target.rmdir() if target.is_dir() else target.unlink()


class APIClient:
    def logs(self, container: str, **options: Any) -> Iterator[bytes]:
        return iter(_started[container].stdout or [])

    def inspect_container(self, container: str) -> Any:
        return {"State": {"ExitCode": _started[container].wait()}}


def _create(
    image: str, command: str, volumes: Any, environment: Any, auto_remove: bool, network_mode: str
) -> Container:
    assert network_mode == "host"
    return Container(image, command, volumes, environment)


def from_env() -> Any:
    return SimpleNamespace(
        containers=SimpleNamespace(create=_create),
        images=SimpleNamespace(get=lambda name: SimpleNamespace(attrs={"Id": name})),
    )
