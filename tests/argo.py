"""Execute a rendered Argo workflow with local processes, task by task, as the Argo controller does."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Tuple

from concurrency import run_magnus_in_forked_process

SUCCEEDED, FAILED, OMITTED = "Succeeded", "Failed", "Omitted"
OUTPUT_FILE = Path("/tmp/output.txt")

StringDict = Dict[str, str]
# Runs a command in a folder with an environment. Returns the exit code and the output.
StartContainer = Callable[[List[str], Path, StringDict], Tuple[int, str]]


class Pod(NamedTuple):
    command: List[str]
    exit_code: int
    output: str


def run_in_process(command: List[str], folder: Path, environment: StringDict) -> Tuple[int, str]:
    """Run a command in a new process, as a container does."""
    result = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240
    )
    return result.returncode, result.stdout


@contextlib.contextmanager
def separate_output_files() -> Iterator[None]:
    """Link /tmp/output.txt to the working directory of each process, because each pod has its own /tmp."""
    OUTPUT_FILE.unlink() if OUTPUT_FILE.is_symlink() or OUTPUT_FILE.exists() else None
    OUTPUT_FILE.symlink_to("/proc/self/cwd/output.txt")
    try:
        yield
    finally:
        OUTPUT_FILE.unlink()


class Workflow:
    """A workflow that can be run once.

    Args:
        manifest: The workflow as magnus renders it.
        image: A folder with the files of the image, without magnus.
        secrets: The secrets of the cluster, by name and key.
        uid: The id of the workflow. magnus uses it as run id.
        start: Starts a container: by default as a forked process, which is faster than a new one.
    """

    def __init__(
        self,
        manifest: Any,
        image: Path,
        secrets: Dict[str, StringDict],
        uid: str,
        start: StartContainer = run_magnus_in_forked_process,
    ) -> None:
        self.spec = manifest["spec"]
        self.templates = {each["name"]: each for each in self.spec["templates"]}
        self.image, self.secrets, self.start = image, secrets, start
        self.pods: List[Pod] = []
        arguments = self.spec["arguments"]["parameters"]
        self.scope = {
            f"workflow.parameters.{each['name']}": render_tags(str(each["value"]), {"workflow.uid": uid})
            for each in arguments
        }

    def run(self) -> str:
        """Run the workflow and return its phase."""
        return self._template(self.spec["entrypoint"], {})[0]

    def _template(self, name: str, arguments: StringDict) -> Tuple[str, StringDict]:
        template = self.templates[name]
        declared = [each["name"] for each in template.get("inputs", {}).get("parameters", [])]
        scope = {**self.scope, **{f"inputs.parameters.{each}": arguments[each] for each in declared}}
        return self._container(template, scope) if "container" in template else self._dag(template["dag"], scope)

    def _container(self, template: Any, scope: StringDict) -> Tuple[str, StringDict]:
        container = template["container"]
        environment = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.defpath])}
        for each in container.get("env", []):
            reference = each.get("valueFrom", {}).get("secretKeyRef")
            value = (
                self.secrets[reference["name"]][reference["key"]]
                if reference
                else render_tags(str(each["value"]), scope)
            )
            environment[each["name"]] = value
        with tempfile.TemporaryDirectory(prefix="pod-") as folder:
            home = Path(shutil.copytree(self.image, Path(folder) / "image"))
            command = [render_tags(word, scope) for word in container["command"]]
            exit_code, output = self.start(command, home, environment)
            self.pods.append(Pod(command, exit_code, output))
            if exit_code:
                return FAILED, {}
            outputs = template.get("outputs", {}).get("parameters", [])
            assert all(each["valueFrom"]["path"] == str(OUTPUT_FILE) for each in outputs)
            return SUCCEEDED, {each["name"]: (home / OUTPUT_FILE.name).read_text() for each in outputs}

    def _dag(self, dag: Any, scope: StringDict) -> Tuple[str, StringDict]:
        tasks = {each["name"]: each for each in dag["tasks"]}
        terms = {name: re.findall(r"([\w-]+)\.(\w+)", task["depends"]) for name, task in tasks.items()}
        phases: Dict[str, str] = {}
        scope = dict(scope)
        running: Dict[Future[Tuple[str, StringDict]], str] = {}
        with ThreadPoolExecutor(max_workers=len(tasks)) as pool:
            while len(phases) < len(tasks):
                for name, task in tasks.items():
                    # Argo evaluates `depends` when all tasks in it have ended, even for an "or".
                    is_ready = all(other in phases for other, _ in terms[name])
                    if is_ready and name not in phases and name not in running.values():
                        if terms[name] and not any(phases[other] == phase for other, phase in terms[name]):
                            phases[name] = OMITTED
                        else:
                            running[pool.submit(self._task, task, dict(scope))] = name
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    name = running.pop(future)
                    phases[name], outputs = future.result()
                    scope.update({f"tasks.{name}.outputs.parameters.{key}": value for key, value in outputs.items()})
        depended_on = {other for each in terms.values() for other, _ in each}
        succeeded = all(phases[name] == SUCCEEDED for name in tasks if name not in depended_on)
        return (SUCCEEDED if succeeded else FAILED), {}

    def _task(self, task: Any, scope: StringDict) -> Tuple[str, StringDict]:
        arguments = task.get("arguments", {}).get("parameters", [])

        def run_template(scope: StringDict) -> Tuple[str, StringDict]:
            return self._template(
                task["template"], {each["name"]: render_tags(each["value"], scope) for each in arguments}
            )

        if "withParam" not in task:
            return run_template(scope)
        items = json.loads(render_tags(task["withParam"], scope))
        scopes = [{**scope, "item": item if isinstance(item, str) else json.dumps(item)} for item in items]
        with ThreadPoolExecutor(max_workers=len(items)) as pool:
            phases = [phase for phase, _ in pool.map(run_template, scopes)]
        return (SUCCEEDED if all(phase == SUCCEEDED for phase in phases) else FAILED), {}


def render_tags(text: str, scope: StringDict) -> str:
    """Replace the template tags of Argo, such as `{{item}}`."""
    return re.sub(r"{{(.+?)}}", lambda tag: scope[tag[1]], text)
