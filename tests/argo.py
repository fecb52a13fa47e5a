"""Argo Workflows' part, played by processes: a rendered workflow, executed task by task, as its controller would."""

import contextlib
import json
import multiprocessing.connection
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Tuple

from concurrency import FORKSERVER

# What any magnus imports, imported once for all quick processes.
FORKSERVER.set_forkserver_preload(
    [
        *("magnus_peewee_store.integrations", "magnus.cli", "magnus.extensions.nodes", "psycopg2", "pymysql"),
        *("magnus.extensions.executor.argo.implementation", "magnus.extensions.catalog.file_system.implementation"),
    ]
)

_starting = threading.Lock()

SUCCEEDED, FAILED, OMITTED = "Succeeded", "Failed", "Omitted"
OUTPUT = Path("/tmp/output.txt")

Values = Dict[str, str]
# Runs a command in a folder, with an environment, to its end: what it answers, and what it printed.
Start = Callable[[List[str], Path, Values], Tuple[int, str]]


class Pod(NamedTuple):
    command: List[str]
    exit_code: int
    output: str


def in_a_process(command: List[str], folder: Path, environment: Values) -> Tuple[int, str]:
    """Start a program, as a container does."""
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240
    )
    return done.returncode, done.stdout


def in_a_quick_process(command: List[str], folder: Path, environment: Values) -> Tuple[int, str]:
    """Start magnus in a process that has imported it already: what else it has is what any other would have."""
    process = FORKSERVER.Process(target=_become, args=(command, folder, environment))
    # To start one process is to look after the others, too, which two threads must not do at once.
    with _starting:
        process.start()
    multiprocessing.connection.wait([process.sentinel], 240)
    with _starting:
        process.join(1)
    return process.exitcode if process.exitcode is not None else -1, (folder / "printed").read_text()


def _become(command: List[str], folder: Path, environment: Values) -> None:
    from magnus.cli import cli

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    printed = os.open("printed", os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(printed, stream)
    sys.argv = command
    cli()


@contextlib.contextmanager
def pods_of_their_own() -> Iterator[None]:
    """Give each process its own /tmp/output.txt, as each pod has one: in the folder that it was started in."""
    OUTPUT.unlink() if OUTPUT.is_symlink() or OUTPUT.exists() else None
    OUTPUT.symlink_to("/proc/self/cwd/output.txt")
    try:
        yield
    finally:
        OUTPUT.unlink()


class Workflow:
    """A workflow to run.

    Args:
        manifest: The workflow, as magnus renders it.
        image: The folder with what the image has besides magnus.
        secrets: The cluster's secrets, by name and key.
        uid: The id that Argo gives it, which magnus takes for the run's.
        start: How a container is started.
    """

    def __init__(
        self, manifest: Any, image: Path, secrets: Dict[str, Values], uid: str, start: Start = in_a_process
    ) -> None:
        self.spec = manifest["spec"]
        self.templates = {each["name"]: each for each in self.spec["templates"]}
        self.image, self.secrets, self.start = image, secrets, start
        self.pods: List[Pod] = []
        arguments = self.spec["arguments"]["parameters"]
        self.scope = {
            f"workflow.parameters.{each['name']}": fill(str(each["value"]), {"workflow.uid": uid}) for each in arguments
        }

    def run(self) -> str:
        """Run it to its end, and give its phase."""
        return self._template(self.spec["entrypoint"], {})[0]

    def _template(self, name: str, arguments: Values) -> Tuple[str, Values]:
        template = self.templates[name]
        declared = [each["name"] for each in template.get("inputs", {}).get("parameters", [])]
        scope = {**self.scope, **{f"inputs.parameters.{each}": arguments[each] for each in declared}}
        return self._container(template, scope) if "container" in template else self._dag(template["dag"], scope)

    def _container(self, template: Any, scope: Values) -> Tuple[str, Values]:
        container = template["container"]
        environment = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.defpath])}
        for each in container.get("env", []):
            reference = each.get("valueFrom", {}).get("secretKeyRef")
            value = self.secrets[reference["name"]][reference["key"]] if reference else fill(str(each["value"]), scope)
            environment[each["name"]] = value
        with tempfile.TemporaryDirectory(prefix="pod-") as folder:
            home = Path(shutil.copytree(self.image, Path(folder) / "image"))
            command = [fill(word, scope) for word in container["command"]]
            exit_code, output = self.start(command, home, environment)
            self.pods.append(Pod(command, exit_code, output))
            if exit_code:
                return FAILED, {}
            outputs = template.get("outputs", {}).get("parameters", [])
            assert all(each["valueFrom"]["path"] == str(OUTPUT) for each in outputs)
            return SUCCEEDED, {each["name"]: (home / OUTPUT.name).read_text() for each in outputs}

    def _dag(self, dag: Any, scope: Values) -> Tuple[str, Values]:
        tasks = {each["name"]: each for each in dag["tasks"]}
        terms = {name: re.findall(r"([\w-]+)\.(\w+)", task["depends"]) for name, task in tasks.items()}
        phases: Dict[str, str] = {}
        scope = dict(scope)
        running: Dict[Future[Tuple[str, Values]], str] = {}
        with ThreadPoolExecutor(max_workers=len(tasks)) as pool:
            while len(phases) < len(tasks):
                for name, task in tasks.items():
                    # A task is looked at once all that it depends on is done, even where the one or the other would do.
                    ready = all(other in phases for other, _ in terms[name])
                    if ready and name not in phases and name not in running.values():
                        if terms[name] and not any(phases[other] == phase for other, phase in terms[name]):
                            phases[name] = OMITTED
                        else:
                            running[pool.submit(self._task, task, dict(scope))] = name
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    name = running.pop(done)
                    phases[name], outputs = done.result()
                    scope.update({f"tasks.{name}.outputs.parameters.{key}": value for key, value in outputs.items()})
        depended_on = {other for each in terms.values() for other, _ in each}
        succeeded = all(phases[name] == SUCCEEDED for name in tasks if name not in depended_on)
        return (SUCCEEDED if succeeded else FAILED), {}

    def _task(self, task: Any, scope: Values) -> Tuple[str, Values]:
        given = task.get("arguments", {}).get("parameters", [])

        def once(scope: Values) -> Tuple[str, Values]:
            return self._template(task["template"], {each["name"]: fill(each["value"], scope) for each in given})

        if "withParam" not in task:
            return once(scope)
        items = json.loads(fill(task["withParam"], scope))
        scopes = [{**scope, "item": item if isinstance(item, str) else json.dumps(item)} for item in items]
        with ThreadPoolExecutor(max_workers=len(items)) as pool:
            phases = [phase for phase, _ in pool.map(once, scopes)]
        return (SUCCEEDED if all(phase == SUCCEEDED for phase in phases) else FAILED), {}


def fill(text: str, scope: Values) -> str:
    """Fill in Argo's template tags."""
    return re.sub(r"{{(.+?)}}", lambda tag: scope[tag[1]], text)
