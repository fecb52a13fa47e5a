"""Test what is published: the files of the sdist and the wheel, their metadata, and the console script."""

import email
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import List

import documents
import pytest
from conftest import Project
from test_pipelines import DB, dag

pytestmark = pytest.mark.skipif(sys.version_info < (3, 9), reason="needs setuptools 77 or later")
MADE_BY_SETUPTOOLS = {"PKG-INFO", "setup.cfg"}


def setup(folder: Path, output: Path, *commands: str) -> "email.message.Message[str, str]":
    """Run commands of setup.py in `folder`, write to `output` only, and return the metadata."""
    command = [sys.executable, "setup.py", "-q", "build", "--build-base", str(output / "build")]
    subprocess.run([*command, "egg_info", "--egg-base", str(output), *commands], cwd=folder, check=True)
    return email.message_from_bytes((output / "magnus_peewee_store.egg-info" / "PKG-INFO").read_bytes())


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the unpacked sdist."""
    output = tmp_path_factory.mktemp("sdist")
    setup(documents.ROOT, output, "sdist", "-d", str(output))
    [archive] = output.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(output)
    return output / archive.name.replace(".tar.gz", "")


def links(text: str) -> List[str]:
    return re.findall(r"\]\(([^)]+)\)", text)


@pytest.mark.skipif(not (documents.ROOT / ".git").exists(), reason="not a clone")
def test_sdist_has_every_tracked_file(sdist: Path) -> None:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    tracked = subprocess.run(command, cwd=documents.ROOT, check=True, stdout=subprocess.PIPE, text=True)
    files = {path.relative_to(sdist).as_posix() for path in sdist.rglob("*") if path.is_file()}
    assert files - MADE_BY_SETUPTOOLS == {*tracked.stdout.splitlines()} - {".gitignore"}


def test_tests_run_from_the_sdist(sdist: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-k", "sqlite or not store", "tests/test_layers.py"]
    command += [
        "tests/test_documents.py::test_links_between_files_work",
        "tests/test_documents.py::test_every_mark_is_used",
    ]
    command += ["tests/test_conformance.py::test_create_run_log_twice_raises"]
    result = subprocess.run(command, cwd=sdist, stdout=subprocess.PIPE, text=True)
    assert result.returncode == 0, result.stdout


def test_wheel_has_types_license_and_projects(sdist: Path, tmp_path: Path) -> None:
    found = setup(sdist, tmp_path, "bdist_wheel", "-d", str(tmp_path))
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        assert "magnus_peewee_store/py.typed" in file.namelist()
    assert "Typing :: Typed" in found.get_all("Classifier", [])
    assert (found["License-Expression"], found["Author"]) == ("Apache-2.0", "magnus-peewee-store contributors")
    assert {"magnus", "peewee"} <= {url.partition(", ")[0] for url in found.get_all("Project-URL", [])}


@pytest.mark.parametrize("address", ["", "https://example.com/team/store"])
def test_links_of_readme_work_on_an_index(sdist: Path, tmp_path: Path, address: str) -> None:
    for name in ("README.md", "setup.py"):
        text = (sdist / name).read_text("utf-8")
        (tmp_path / name).write_text(text.replace('REPOSITORY = ""', f'REPOSITORY = "{address}"'), "utf-8")
    found = setup(tmp_path, tmp_path)
    on_index = links(str(found.get_payload()))
    assert on_index and all(link.startswith("https://") for link in on_index)
    if address:
        local = [link for link in links((sdist / "README.md").read_text("utf-8")) if "://" not in link]
        blobs = [f"{address}/{'raw' if link.endswith('.svg') else 'blob'}/HEAD/{link}" for link in local]
        assert [link for link in on_index if address in link] == blobs
        assert f"Source, {address}" in found.get_all("Project-URL", [])


def test_console_script_is_magnus_db(project: Project) -> None:
    project.write(pipeline_yaml={"dag": dag(step={"type": "stub"})}, config_yaml=DB)
    project.execute("a-run")
    assert "a-run" in project.run("magnus-db", "runs")
