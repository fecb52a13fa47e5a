"""Test the report of many runs: its files, and how a browser shows them."""

import math
import re
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
from browser import OVERFLOWS, PHONE, Browser, contrast
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from logs import attempted_step, sample_run
from magnus.datastore import DataCatalog, RunLog

from magnus_peewee_store import DBStore, cli, runs
from magnus_peewee_store.report.run_table import field_columns, table_options
from magnus_peewee_store.report.site import draw_index, page_name, read_libraries, write_site
from magnus_peewee_store.runs.annotate import Note
from magnus_peewee_store.runs.summaries import RunSummary
from magnus_peewee_store.timeline.layout import shorten
from magnus_peewee_store.timeline.styles import DARK, LIGHT

HOSTILE = "\"'></script><script>window.caught = 1</script><img src=x onerror='window.caught = 2'>&amp;${counts}"


def put(store: DBStore, run_id: str, metrics: Dict[str, Any], status: str = "SUCCESS", **parameters: Any) -> None:
    train = attempted_step("train", "10:00:00", "10:02:05", status, user_defined_metrics=metrics)
    store.put_run_log(RunLog(run_id=run_id, status=status, steps={"train": train}, parameters=parameters))


def report(url: str, folder: Path, *options: str, exit_code: int = 0) -> str:
    arguments = ["report", "--connection-string", url, "-o", str(folder), *options]
    result = CliRunner().invoke(cli.db, arguments)
    assert result.exit_code == exit_code, result.output
    return result.output


# The files


def test_report_has_a_page_for_each_chosen_run(store: DBStore, database: Any, tmp_path: Path) -> None:
    store.put_run_log(sample_run("good", tag="nightly"))
    store.put_run_log(sample_run("bad", status="FAIL", tag="nightly"))
    store.put_run_log(sample_run("unwanted"))
    folder = tmp_path / "reports" / "nightly"
    output = report(database.url, folder, "--tag", "nightly", "--where", "score.deep!=0")
    assert output == f"Wrote {folder}/index.html.\n"
    index = (folder / "index.html").read_text("utf-8")
    assert "Only runs with score.deep != 0, tag = nightly." in index and "unwanted" not in index
    pages = {path.name: path.read_text("utf-8") for path in (folder / "runs").iterdir()}
    assert sorted(pages) == sorted(map(page_name, ("good", "bad"))) and all(name in index for name in pages)
    assert "it broke" in pages[page_name("bad")] and 'href="../index.html"' in pages[page_name("bad")]


def test_new_report_replaces_an_earlier_one(sqlite_file: Any, tmp_path: Path) -> None:
    store = DBStore(connection_string=sqlite_file.url)
    folder = tmp_path / "report"
    for run_id in ("old", "new"):
        put(store, run_id, {"rmse": 1})
        (folder / ".git").mkdir(parents=True, exist_ok=True)
        report(sqlite_file.url, folder, "--where", f"run_id={run_id}")
    store.close()
    names = sorted(path.name for path in folder.iterdir())
    assert names == [".git", "index.html", "plotly.min.js", "runs"]
    assert [path.name for path in (folder / "runs").iterdir()] == [page_name("new")]


@pytest.mark.parametrize("name", ["notes.txt", "index.html", "runs/notes.html", "runs"])
def test_report_leaves_a_folder_with_other_files_alone(sqlite_file: Any, tmp_path: Path, name: str) -> None:
    store = DBStore(connection_string=sqlite_file.url)
    put(store, "a-run", {})
    store.close()
    file = tmp_path / "report" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    message = report(sqlite_file.url, tmp_path / "report", exit_code=1)
    assert f"{name.split('/')[0]}' is not part of a report" in message and "Name another folder" in message
    assert [path for path in (tmp_path / "report").rglob("*") if path.is_file()] == [file]


def test_interrupted_report_can_be_written_again(sqlite_file: Any, tmp_path: Path) -> None:
    store = DBStore(connection_string=sqlite_file.url)
    for run_id in ("one", "two"):
        put(store, run_id, {})

    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_site(store, runs.search(store), tmp_path / "report", progress=interrupt)
    assert write_site(store, runs.search(store), tmp_path / "report").exists()
    store.close()


def test_run_deleted_meanwhile_is_left_out(sqlite_file: Any, tmp_path: Path) -> None:
    store = DBStore(connection_string=sqlite_file.url)
    for run_id in ("kept", "deleted"):
        put(store, run_id, {})
    found = runs.search(store)
    list(runs.delete_runs(store, ["deleted"]))
    index = write_site(store, found, tmp_path / "report").read_text("utf-8")
    assert page_name("kept") in index and "deleted" not in index
    store.close()


@pytest.mark.parametrize("library", ["plotly", "itables"])
def test_missing_library_is_named_before_anything_is_written(
    sqlite_file: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    store = DBStore(connection_string=sqlite_file.url)
    put(store, "a-run", {})
    store.close()
    for name in [name for name in sys.modules if name.partition(".")[0] == library] + [library]:
        monkeypatch.setitem(sys.modules, name, None)
    message = report(sqlite_file.url, tmp_path / "report", exit_code=1)
    assert "pip install plotly itables" in message and not (tmp_path / "report").exists()


def test_commands_do_not_import_the_libraries() -> None:
    code = "import sys, magnus_peewee_store.cli; print({'plotly', 'itables', 'pandas', 'IPython'} & {*sys.modules})"
    command = [sys.executable, "-W", "ignore", "-c", code]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "set()\n"


@given(st.lists(st.text(st.characters(codec=None, exclude_categories=())), max_size=20, unique=True))
def test_names_of_pages_are_safe_and_unique(run_ids: List[str]) -> None:
    names = [page_name(run_id) for run_id in [*run_ids, "a", "A", "con", "..", ".hidden", "a/b", "a b", "x" * 5000]]
    assert all(re.fullmatch(r"[a-z0-9_-][a-z0-9_.-]{0,80}\.html", name) for name in names)
    assert len({*names}) >= len({*run_ids} | {"a", "A"})
    assert Counter(name.lower() for name in names).most_common(1)[0][1] <= 2  # `run_ids` may repeat one of the others


def summaries(count: int, metrics: int, params: int) -> List[RunSummary]:
    """Return summaries of `count` runs with this many metrics and parameters. All values have many digits."""
    start = datetime(2026, 1, 1, tzinfo=timezone.utc)
    return [
        RunSummary(
            run_id=f"run-{number:06}",
            status="FAIL" if number % 10 == 0 else "SUCCESS",
            tag="nightly",
            started=start + timedelta(minutes=number),
            duration=number / 7,
            steps_done=1,
            steps_known=1,
            failed_step=None,
            unreadable=[],
            params={f"parameter{index}": math.sin(number * index) for index in range(params)},
            metrics={f"step{index}.metric{index}": math.cos(number * index) for index in range(metrics)},
        )
        for number in range(count)
    ]


def test_index_of_a_thousand_runs_has_at_most_10_mb() -> None:
    index = draw_index(summaries(1000, metrics=100, params=20), (), read_libraries()[1])
    assert 2_000_000 < len(index.encode()) <= 10_000_000


def test_columns_that_few_runs_have_are_left_out_and_counted() -> None:
    many, one = summaries(5, 3, 3), summaries(1, 230, 3)
    index = draw_index([*many, *one], (), read_libraries()[1])
    assert "30 parameters and metrics that few runs have are left out." in index
    assert "metrics.step2.metric2" in index and "metrics.step229.metric229" not in index


def test_table_shows_tags_notes_and_whether_a_run_is_stale() -> None:
    [run] = summaries(1, 0, 0)
    notes = tuple(Note(text, None, None) for text in ("old", "<new>"))
    found = [
        replace(run, status="PROCESSING", is_stale=True, tags=("a", "b"), notes=notes, project="forecast"),
        replace(run, status="PROCESSING", is_stale=True, is_interrupted=True, tag=None, project="other"),
        replace(run, status="PROCESSING", is_stale=False, tag=None),
    ]
    options = table_options(found, field_columns(found), (), (), ["page.html"] * 3)
    names = [re.search('title="(.*?)"', column["title"])[1] for column in options["columns"]]  # type: ignore[index]
    rows = [dict(zip(names, row)) for row in options["data"]]
    statuses = [row["status"]["text"] for row in rows]
    assert statuses == ["STALE", "INTERRUPTED", "PROCESSING"]
    assert rows[0]["tag"] == "nightly, a, b" and rows[1]["tag"] is None
    assert rows[0]["note"] == "old, &lt;new&gt;" and rows[0]["project"] == "forecast"


@pytest.mark.parametrize("command", ["report", "timeline"])
def test_output_of_a_failed_step_is_shown_only_if_asked_for(
    sqlite_file: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    store = DBStore(connection_string=sqlite_file.url)
    files = {"inside": ".catalog/a-run/train.execution.log", "outside": "../train.execution.log"}
    data = [
        {"name": f"{name}.execution.log", "data_hash": "1", "stage": "put", "catalog_relative_path": path}
        for name, path in (("inside", "a-run/train.execution.log"), ("outside", files["outside"]))
    ]
    train = attempted_step("train", "10:00:00", "10:00:01", "FAIL", data_catalog=data)
    config = {"pipeline_file": "p.yaml"}
    store.put_run_log(RunLog(run_id="a-run", status="FAIL", steps={"train": train}, run_config=config))
    store.close()
    for name, path in (("inside", files["inside"]), ("outside", "train.execution.log")):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"epoch 3 {name}")
    monkeypatch.chdir(tmp_path)
    for options, is_shown in (((), False), (("--with-output",), True)):
        target = "out" if command == "report" else "out.html"
        run = [] if command == "report" else ["a-run"]
        arguments = [command, *run, "--connection-string", sqlite_file.url, "-o", target, *options]
        assert CliRunner().invoke(cli.db, arguments).exit_code == 0
        page = Path("out/runs", page_name("a-run")) if command == "report" else Path(target)
        text = page.read_text("utf-8")
        assert ("epoch 3 inside" in text) is is_shown and "outside<" not in text
        assert "magnus execute -f p.yaml<" in text


# The browser


ROWS = """return [...document.querySelectorAll('#runs tbody tr')].map(
    row => [...row.cells].map(cell => cell.textContent))"""
HEADINGS = "return [...document.querySelectorAll('#runs thead th')].map(each => each.innerText.trim())"
DRAWN = "return [...document.querySelectorAll('.plot')].every(each => each.querySelector('.main-svg'))"


class Page:
    """The index of a report in a browser."""

    def __init__(self, browser: Browser, folder: Path) -> None:
        self.browser = browser
        self.file = folder / "index.html"

    def open(self, width: int = 1280, height: int = 800, scheme: str = "light") -> "Page":
        """Open the page, and wait until it is complete."""
        self.browser.visit(self.file, width, height, scheme)
        self.browser.wait_for(DRAWN)
        self.requests = {url.rpartition("/")[2] for url in self.browser.requests() if not url.startswith("blob:")}
        self.errors = [each for each in self.browser.driver.get_log("browser") if each["level"] == "SEVERE"]
        return self

    def headings(self) -> List[str]:
        return list(self.browser(HEADINGS))

    def column(self, heading: str) -> List[str]:
        number = self.headings().index(heading)
        return [row[number] for row in self.browser(ROWS)]

    def sort_by(self, heading: str, direction: str = "ascending") -> None:
        cell = self.browser.find("#runs thead th")[self.headings().index(heading)]
        before = cell.get_attribute("aria-sort")
        while before != direction:
            cell.click()
            # DataTables sorts after the click has been handled. A second click in between would count, too.
            self.browser.wait_until(lambda order=before: cell.get_attribute("aria-sort") != order)
            before = cell.get_attribute("aria-sort")

    def search(self, text: str) -> None:
        [box] = self.browser.find(".dt-search input")
        box.clear()
        box.send_keys(text)

    def toggle_column(self, heading: str) -> None:
        self.browser.find(".dt-buttons button")[0].click()
        [item] = [each for each in self.browser.find(".dt-button-collection button") if each.text == heading]
        item.click()
        self.browser.press_escape()
        self.browser.wait_for("return !document.querySelector('.dt-button-collection')")

    def choose(self, plot: str, menu: int, label: str) -> None:
        """Choose an item of a menu of a plot."""
        self.browser.click(self.browser.find(f"#{plot} .updatemenu-header")[menu])
        [item] = [each for each in self.browser.find(f"#{plot} .updatemenu-dropdown-button") if each.text == label]
        item.click()

    def hover_over_point(self, number: int) -> Tuple[Any, str]:
        """Move the mouse to a point of the plot over time. Return the point, and the label that plotly shows then."""

        def find_label() -> Any:
            points = self.browser.find("#over-time .point")
            if len(points) <= number:
                return None
            # plotly may still be drawing, and so miss a movement.
            self.browser.hover(self.browser.find("h1")[0])
            self.browser.hover(points[number])
            label = self.browser("return document.querySelector('#over-time .hovertext')?.textContent")
            return label and (points[number], label)

        return tuple(self.browser.wait_until(find_label))

    def data(self, plot: str) -> Any:
        """Return what a plot draws, and the titles of its axes."""
        return self.browser(
            """
            const {_fullData, _fullLayout: {xaxis, yaxis}} = document.getElementById(arguments[0]);
            const traces = _fullData.map(({name, x, y}) => ({name, x, y}));
            return {traces, x: xaxis.title.text, y: yaxis.title.text, type: xaxis.type}""",
            plot,
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with a report of 32 runs. The first has names and values that are dangerous in HTML."""
    folder = tmp_path_factory.mktemp("site")
    store = DBStore(connection_string=f"sqlite:///{folder}/runs.db")
    hostile = sample_run(HOSTILE, tag=HOSTILE, parameters={HOSTILE: HOSTILE, "lr": 0.1, "optimizer": HOSTILE})
    hostile.steps["load"].user_defined_metrics = {HOSTILE: 1.5}
    store.put_run_log(hostile)
    for number in range(27):
        put(
            store,
            f"run-{number:02}",
            {"rmse": (number * 7 % 27) / 27 + 1e-7, "r2": number},
            lr=10 ** -(number % 4),
            optimizer=["adam", "sgd"][number % 2],
            layers=[64, number],
            constant=1,
        )
    for number, offset in ((1, 0.0), (2, 0.5)):
        log = attempted_step("train", "10:00:00", "10:02:05", user_defined_metrics={"loss": {"0": 1.0, "1": offset}})
        log.data_catalog = [DataCatalog(name="rows.csv", data_hash="fedcba9876543210", stage="get")]
        parameters = {"lr": 0.1, "seed": number, "deep": {HOSTILE: number}}
        store.put_run_log(
            RunLog(run_id=f"curve-{number}", status="SUCCESS", steps={"train": log}, parameters=parameters)
        )
    put(store, "not-a-number", {"rmse": math.nan}, lr=0.1)
    put(store, "failed", {}, "FAIL", lr=0.1, optimizer="adam")
    store.close()
    report(f"sqlite:///{folder}/runs.db", folder / "report")
    return folder / "report"


@pytest.fixture(scope="module")
def opened(browser: Browser, folder: Path) -> Page:
    return Page(browser, folder).open()


@pytest.fixture
def page(opened: Page) -> Page:
    """Return the page as the earlier tests left it. Without a graphics card, it takes seconds to draw it again."""
    return opened if opened.browser.driver.current_url == opened.file.as_uri() else opened.open()


def test_table_shows_the_newest_runs_first(page: Page) -> None:
    assert page.column("run id")[:3] == ["failed", "not-a-number", "curve-2"]
    assert page.column("status")[:2] == ["✗ FAIL", "✓ SUCCESS"]
    assert page.column("duration")[0] == "2m 05s" and page.column("rmse")[4:6] == ["0.740741", "0.481482"]
    [info] = page.browser.find(".dt-info")
    assert info.text == "1 to 25 of 32" and not page.browser(OVERFLOWS)


def test_page_makes_no_requests_and_has_no_errors(page: Page) -> None:
    assert page.requests == {"index.html", "plotly.min.js"} and page.errors == []
    # plotly shows its buttons, but not the one that uploads the data.
    assert page.browser.find("[data-title*=Download]")
    assert not page.browser.find("[data-title*=Share], [data-title*=loud], [data-title*=Studio]")


def test_sort_puts_numbers_in_order_and_runs_without_one_last(page: Page) -> None:
    page.search("")
    page.sort_by("rmse")
    assert page.column("rmse")[:3] == ["1e-7", "0.0370371", "0.0740742"]
    page.sort_by("rmse", "descending")
    assert page.column("rmse")[:2] == ["0.962963", "0.925926"]
    page.search('"0.1"')
    for direction in ("ascending", "descending"):
        page.sort_by("rmse", direction)
        values = page.column("rmse")
        known = [value for value in values if value]
        assert values == known + [""] * (len(values) - len(known)) and known[-1] == "NaN" and len(known) > 1


def test_sort_of_durations_and_texts(page: Page) -> None:
    page.search("")
    page.sort_by("failed step")
    assert page.column("failed step")[:2] == ["train", ""]
    page.sort_by("duration")
    assert page.column("duration")[:2] == ["6s", "2m 05s"]


def test_search_finds_texts_of_every_column(page: Page) -> None:
    for text, found in (
        ("run-13", ["run-13"]),
        ("FAIL train", ["failed"]),
        ('"[64, 7]"', ["run-07"]),
        ("window.caught", [HOSTILE]),
        ("href", []),
    ):
        page.search(text)
        ids = page.browser("return [...document.querySelectorAll('#runs tbody a')].map(each => each.title)")
        assert ids == found, text


def test_columns_can_be_hidden_and_shown(page: Page) -> None:
    assert "optimizer" in page.headings()
    page.toggle_column("optimizer")
    assert "optimizer" not in page.headings() and "rmse" in page.headings()
    page.toggle_column("optimizer")
    assert "optimizer" in page.headings()


def test_columns_menu_scrolls_inside_the_window(page: Page) -> None:
    page.browser.find(".dt-buttons button")[0].click()
    box = page.browser(
        """
        const menu = document.querySelector('.dt-button-collection');
        menu.querySelector('button').insertAdjacentHTML('afterend', '<p style="height: 3000px">');
        const {bottom, right} = menu.getBoundingClientRect();
        return [bottom < innerHeight, right < innerWidth, getComputedStyle(menu).overflowY,
            menu.scrollHeight > menu.clientHeight]"""
    )
    assert box == [True, True, "auto", True]
    page.browser.press_escape()
    page.browser.wait_for("return !document.querySelector('.dt-button-collection')")
    page.open()


def test_chosen_runs_are_compared_with_their_curves(page: Page) -> None:
    page.search("curve-")
    for box in page.browser.find("#runs input"):
        box.click()
    rows = page.browser.wait_for(
        """
        const rows = [...document.querySelectorAll('#comparison tr')];
        return rows.length && rows.map(row => [...row.cells].map(cell => cell.textContent))"""
    )
    assert rows[0] == ["", "curve-2", "curve-1"] and ["seed", "2", "1"] in rows and ["train.loss", "0.5", "0"] in rows
    assert not [row for row in rows if row[0] in ("lr", "started")] and any(HOSTILE in row[0] for row in rows)
    [figure] = page.browser.find("#comparison figure")
    assert figure.text.startswith("train.loss")
    paths = page.browser("return [...document.querySelectorAll('#comparison [class^=curve-]')].map(e => e.outerHTML)")
    assert len(paths) == 2 and len({re.search(' d="([^"]*)', path)[1] for path in paths}) == 2  # type: ignore[index]
    assert page.browser.find("#chosen span")[0].text == "2 runs chosen"
    page.browser.find("#chosen button")[1].click()
    page.browser.wait_for("return document.getElementById('comparison').hidden")
    assert not page.browser.find("#runs input:checked") and page.browser("return window.caught") is None


def test_hash_leads_to_the_runs_that_used_the_content(page: Page) -> None:
    page.search("curve-1")
    page.browser.find("#runs tbody a")[0].click()
    page.browser.wait_for("return document.querySelector('.bar') !== null")
    page.browser.find(".values a")[0].click()
    page.browser.wait_for("return document.querySelector('#runs tbody a') !== null")
    assert page.column("run id") == ["curve-2", "curve-1"]
    assert page.browser.find("#content code")[0].text == "fedcba987654"
    page.browser.find("#content a")[0].click()
    page.browser.wait_for("return document.getElementById('content').hidden")
    assert len(page.browser(ROWS)) == 25
    page.open()


def test_menus_choose_metric_and_parameter(page: Page) -> None:
    assert page.data("over-time")["y"] == "rmse"
    page.choose("over-time", 0, "y: r2")
    data = page.data("over-time")
    assert data["y"] == "r2" and {trace["name"] for trace in data["traces"]} == {"SUCCESS", "FAIL"}
    [succeeded] = [trace for trace in data["traces"] if trace["name"] == "SUCCESS"]
    assert [each for each in succeeded["y"] if each is not None] == list(range(26, -1, -1))
    page.choose("by-parameter", 0, "y: duration (s)")
    page.choose("by-parameter", 1, "x: lr")
    data = page.data("by-parameter")
    assert (data["x"], data["y"], data["type"]) == ("lr", "duration (s)", "log")
    page.choose("by-parameter", 1, "x: optimizer")
    data = page.data("by-parameter")
    assert (data["x"], data["type"]) == ("optimizer", "category")


def test_colours_follow_the_system(page: Page) -> None:
    for scheme, palette in (("dark", DARK), ("light", LIGHT)):
        page.browser.set_scheme(scheme)
        page.browser.find(".dt-buttons button")[0].click()
        page.browser.wait_for("return document.querySelector('.dt-button-collection')")
        assert hex_of(page.browser("return getComputedStyle(document.body).backgroundColor")) == palette["background"]
        colours = page.browser(
            """
            const style = (selector, name) => [...document.querySelectorAll(selector)]
                .map(each => getComputedStyle(each)[name]);
            return [...style('#runs td, #runs td a, #runs th, .dt-info, .dt-button-collection button', 'color'),
                ...style('.xtick text, .ytick text, .xtitle, .legendtext, .updatemenu-item-text', 'fill')]"""
        )
        assert len(colours) > 50
        assert [each for each in {*map(hex_of, colours)} if contrast(each, palette["background"]) < 4.5] == []
        page.browser.press_escape()
        page.browser.wait_for("return !document.querySelector('.dt-button-collection')")


def hex_of(colour: str) -> str:
    """Return a colour such as `rgb(1, 2, 3)` in hexadecimal digits."""
    return "#" + "".join(f"{int(number):02x}" for number in re.findall(r"\d+", colour)[:3])


def test_names_and_values_are_shown_as_they_are(page: Page) -> None:
    page.search("window.caught")
    [row] = page.browser(ROWS)
    assert row.count(HOSTILE) >= 1 and row[page.headings().index("tag")] == HOSTILE
    page.browser.click(page.browser.find("#by-parameter .updatemenu-header")[1])
    texts = page.browser("return [...document.querySelectorAll('.main-svg text')].map(each => each.textContent)")
    assert any(text.startswith("x: \"'></script><scr") for text in texts)
    assert not any("&lt;" in text or "&quot;" in text for text in texts)
    page.choose("over-time", 0, f"y: {shorten(f'load.{HOSTILE}', 32)}")
    point, label = page.hover_over_point(0)
    assert label.startswith(HOSTILE[:30])
    assert page.browser("return window.caught") is None
    page.browser.click(point)
    page.browser.wait_for("return document.querySelector('.bar') !== null")
    assert HOSTILE in page.browser.find("h1")[0].text
    assert page.browser("return window.caught") is None


def test_hover_shows_the_run_and_a_click_opens_its_page(page: Page) -> None:
    point, label = page.hover_over_point(3)
    assert re.match(r"run-\d\d SUCCESS", label) and "started: " in label and "rmse: 0." in label
    page.browser.click(point)
    page.browser.wait_for("return document.querySelector('.bar') !== null")
    assert label[:6] in page.browser.driver.title


def test_link_opens_the_timeline_of_the_run_and_leads_back(page: Page) -> None:
    page.search("run-07")
    page.browser.find("#runs tbody a")[0].click()
    page.browser.wait_for("return document.querySelector('.bar') !== null")
    assert "run-07" in page.browser.driver.title
    assert page.browser.find("nav a")[0].get_attribute("href") == page.file.as_uri()


def test_phone_scrolls_the_table_and_not_the_page(page: Page) -> None:
    page.open(*PHONE, scheme="dark")
    assert not page.browser(OVERFLOWS)
    assert page.browser("return document.documentElement.classList.contains('dark')")  # the table's dark colours
    box = "document.querySelector('#runs').parentElement"
    assert page.browser(f"return {box}.scrollWidth > {box}.clientWidth")
    assert page.browser(f"return getComputedStyle({box}).overflowX") == "auto"
    widths = page.browser("return [...document.querySelectorAll('#over-time, #by-parameter')].map(e => e.scrollWidth)")
    assert max(widths) <= PHONE[0]


def test_report_without_runs_says_so(browser: Browser, sqlite_file: Any, tmp_path: Path) -> None:
    store = DBStore(connection_string=sqlite_file.url)
    put(store, "a-run", {})
    store.close()
    report(sqlite_file.url, tmp_path / "report", "--status", "FAIL")
    page = Page(browser, tmp_path / "report").open()
    assert page.browser(ROWS) == [["No runs match."]] and page.headings() == ["run id"]
    assert page.errors == []


def test_reports_into_one_folder_take_turns(tmp_path: Path) -> None:
    stores = [DBStore(connection_string=f"sqlite:///{tmp_path}/{name}.db") for name in ("one", "two")]
    for store in stores:
        put(store, "run", {"loss": 1.0})
    has_progress = threading.Event()

    def write_other(_: int) -> None:
        other.start()
        assert not has_progress.wait(0.2)

    def write_second() -> None:
        write_site(stores[1], runs.search(stores[1], []), tmp_path / "report", progress=lambda _: has_progress.set())

    other = threading.Thread(target=write_second)
    write_site(stores[0], runs.search(stores[0], []), tmp_path / "report", progress=write_other)
    other.join()
    assert has_progress.is_set()
