"""The timeline: its text, whatever a run log holds, and what a real browser makes of it."""

import base64
import io
import json
import os
import re
import shutil
import xml.etree.ElementTree as ET
from collections import OrderedDict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import step
from magnus.datastore import BranchLog, RunLog, StepAttempt, StepLog

from magnus_peewee_store import timeline

try:
    import pypdf
    from selenium import webdriver
except ImportError:
    webdriver = None
from magnus_peewee_store.timeline import DARK, LIGHT, to_html, to_svg

SVG = "{http://www.w3.org/2000/svg}"
NOON = datetime(2024, 2, 29, 12)


def attempt(start: float, end: float, status: str = "SUCCESS", **more: Any) -> StepAttempt:
    """An attempt from so many seconds after noon to so many, as magnus writes it."""
    times = [NOON + timedelta(seconds=seconds) for seconds in (start, end)]
    took = str(times[1] - times[0])
    return StepAttempt(start_time=str(times[0]), end_time=str(times[1]), duration=took, status=status, **more)


def run_of(*steps: StepLog, status: str = "SUCCESS", **more: Any) -> RunLog:
    return RunLog(run_id="run", status=status, steps=OrderedDict((each.internal_name, each) for each in steps), **more)


def done(name: str, *attempts: StepAttempt, **more: Any) -> StepLog:
    return step(name, status="SUCCESS", attempts=list(attempts), **more)


def nested_run() -> RunLog:
    """A step that was retried, one that was skipped, and a map with a branch that failed; 12 attempts in all."""
    branches: Dict[str, BranchLog] = {}
    for number, value in enumerate(["jan.csv", "feb.csv", "mar.csv"]):
        prefix, start, fails = f"each.{value}.", 20 + number, number == 1
        steps = [
            done(f"{prefix}clean", attempt(start, start + 9)),
            step(
                f"{prefix}fit",
                status="FAIL" if fails else "SUCCESS",
                attempts=[attempt(start + 9, start + 30, "FAIL" if fails else "SUCCESS", message="boom" * fails)],
                user_defined_metrics={"auc": 0.5},
            ),
            done(f"{prefix}{'fail' if fails else 'success'}", attempt(start + 30, start + 30.0004)),
        ]
        status = "FAIL" if fails else "SUCCESS"
        inside = OrderedDict((each.internal_name, each) for each in steps)
        branches[prefix[:-1]] = BranchLog(internal_name=prefix[:-1], status=status, steps=inside)
    return run_of(
        done(
            "load", attempt(0, 8, "FAIL", message="Connection reset by peer"), attempt(9, 18, parameters={"days": 90})
        ),
        step("checked", status="SUCCESS", mock=True),
        step("each", status="FAIL", step_type="map", branches=branches),
        done("fail", attempt(60, 60.001)),
        status="FAIL",
        tag="nightly",
    )


def running_run() -> RunLog:
    return run_of(done("load", attempt(0, 30)), step("fit", status="PROCESSING"), status="PROCESSING")


def long_run(steps: int) -> RunLog:
    return run_of(*(done(f"step {number}", attempt(number, number + 2)) for number in range(steps)))


def marks(svg: str, kind: str = "bar") -> List[ET.Element]:
    groups = ET.fromstring(svg).iter(f"{SVG}g")
    return [each for each in groups if kind in each.get("class", "").split()]


def titles(svg: str, kind: str = "bar") -> List[str]:
    return [each.findtext(f"{SVG}title") or "" for each in marks(svg, kind)]


def extent(mark: ET.Element) -> List[float]:
    rect = mark.find(f"{SVG}rect")
    assert rect is not None
    left, width = (float(rect.attrib[name].rstrip("%")) for name in ("x", "width"))
    return [left, left + width]


NAMES = st.text(st.characters(codec=None, exclude_categories=()), min_size=1, max_size=12) | st.sampled_from(
    [
        "<script>alert(1)</script>",
        "\"'&]]>",
        "🎉",
        "x" * 500,
        "a\0b\x1b",
        "lone \ud800",
        "\u202eright to left",
        "\ufffe",
    ]
)
TIMES = st.sampled_from(["", "never", "2024-02-29 12:00:00", "2024-02-29T12:00:09.5+02:00"]) | st.datetimes().map(str)
STATUS = st.sampled_from(["CREATED", "TRIGGERED", "PROCESSING", "SUCCESS", "FAIL"]) | NAMES
ATTEMPTS = st.builds(
    StepAttempt,
    start_time=TIMES,
    end_time=TIMES,
    duration=NAMES,
    status=STATUS,
    message=NAMES,
    parameters=st.dictionaries(NAMES, NAMES, max_size=2),
)


@st.composite
def steps_of(draw: Any, depth: int, prefix: str = "") -> "OrderedDict[str, StepLog]":
    steps: OrderedDict[str, StepLog] = OrderedDict()
    for name in draw(st.lists(NAMES, max_size=2, unique=True)):
        own = prefix + name
        branches = [f"{own}.{value}" for value in draw(st.lists(NAMES, max_size=2, unique=True))] if depth else []
        steps[own] = StepLog(
            name=name,
            internal_name=own,
            status=draw(STATUS),
            mock=draw(st.booleans()),
            attempts=draw(st.lists(ATTEMPTS, max_size=2)),
            user_defined_metrics=draw(st.dictionaries(NAMES, NAMES, max_size=1)),
            branches={
                each: BranchLog(internal_name=each, status=draw(STATUS), steps=draw(steps_of(depth - 1, f"{each}.")))
                for each in branches
            },
        )
    return steps


RUN_LOGS = st.builds(RunLog, run_id=NAMES, tag=st.none() | NAMES, status=STATUS, steps=steps_of(depth=2))


def all_steps(steps: Dict[str, StepLog]) -> Iterator[StepLog]:
    for each in steps.values():
        yield each
        for branch in each.branches.values():
            yield from all_steps(branch.steps)


@settings(deadline=None)
@given(RUN_LOGS)
def test_any_run_log_gives_well_formed_xml_with_every_name_and_a_bar_an_attempt(run_log: RunLog) -> None:
    svg = to_svg(run_log)
    labels = [each.text for each in ET.fromstring(svg).iter(f"{SVG}title")]
    for each in all_steps(run_log.steps):
        assert timeline._clean(each.internal_name) in labels
    assert len(marks(svg)) == sum(len(each.attempts) for each in all_steps(run_log.steps))
    for mark in marks(svg) + marks(svg, "open") + marks(svg, "spine"):
        left, right = extent(mark)
        assert 0 <= left < right <= 100
    to_html(run_log).encode()


def test_what_xml_cannot_hold_is_shown_as_a_sign() -> None:
    [title] = titles(to_svg(run_of(done("a\0b\x1bc\ud800d\ufffe", attempt(0, 1)))))
    assert title.splitlines()[0] == "a\u2400b\u241bc\ufffdd\ufffd"


def test_bars_stand_where_their_times_are() -> None:
    svg = to_svg(run_of(done("one", attempt(0, 10)), done("two", attempt(10, 40)), done("three", attempt(30, 40))))
    one, two, three = map(extent, marks(svg))
    assert one[0] == 0 and one[1] == two[0] == pytest.approx(two[1] / 4, abs=0.02)
    assert three == [pytest.approx(two[1] * 3 / 4, abs=0.02), two[1]]


def test_a_retried_step_has_a_bar_an_attempt_and_tells_of_each() -> None:
    svg = to_svg(nested_run())
    failed, succeeded = titles(svg)[:2]
    assert failed.splitlines() == [
        "load",
        "✗ failed",
        "Attempt: 1 of 2",
        "Start: 2024-02-29 12:00:00.000",
        "End: 2024-02-29 12:00:08.000",
        "Duration: 8s",
        "Error: Connection reset by peer",
    ]
    assert "Attempt: 2 of 2" in succeeded and "Parameters: days = 90" in succeeded
    fills = [mark.find(f"{SVG}rect").get("fill") for mark in marks(svg)[:2]]  # type: ignore[union-attr]
    assert fills == ["url(#hatch-fail)", None]


def test_a_step_of_branches_and_each_branch_span_what_is_in_them() -> None:
    svg = to_svg(nested_run())
    spans = dict(zip([title.splitlines()[0] for title in titles(svg, "spine")], map(extent, marks(svg, "spine"))))
    assert list(spans) == ["run", "each", "each.jan.csv", "each.feb.csv", "each.mar.csv"]
    assert spans["each"] == pytest.approx([spans["each.jan.csv"][0], spans["each.mar.csv"][1]], abs=0.02)
    assert "Metrics: auc = 0.5" in next(title for title in titles(svg) if title.startswith("each.feb.csv.fit"))


def test_the_nodes_that_only_end_a_graph_are_not_drawn() -> None:
    ended = to_svg(run_of(step("load", status="SUCCESS"), step("the end", step_type="success", status="SUCCESS")))
    assert "load" in ended and "the end" not in ended and "1 step<" in ended.replace("\u2003", "")


def test_what_is_running_is_open_and_begins_where_what_ran_before_it_ended() -> None:
    svg = to_svg(running_run())
    [fit] = marks(svg, "open")
    assert extent(fit) == [extent(marks(svg)[0])[1], timeline.OPEN]
    assert titles(svg, "open") == ["fit\n► running\nStart: after 2024-02-29 12:00:30.000"]
    assert "30s so far" in to_html(running_run())


def test_a_run_without_steps_or_times_says_so() -> None:
    assert "No step has begun yet." in to_svg(RunLog(run_id="new", status="PROCESSING"))
    assert "No step has begun yet." in to_html(RunLog(run_id="new", status="PROCESSING"))
    begun = run_of(step("load", status="PROCESSING"), status="PROCESSING")
    assert len(marks(to_svg(begun), "open")) == 1 and "Started" not in to_html(begun)


def test_an_attempt_that_lacks_times_is_shown_all_the_same() -> None:
    svg = to_svg(run_of(done("one", attempt(0, 10)), step("two", status="FAIL", attempts=[StepAttempt()])))
    assert len(marks(svg)) == 2 and "Start: not recorded\nEnd: not recorded" in titles(svg)[1]


def test_clocks_that_disagree_give_no_negative_duration() -> None:
    svg = to_svg(run_of(done("one", attempt(5, 3))))
    assert "Duration: unclear: the clock says it ended first" in titles(svg)[0]


@pytest.mark.parametrize("seconds", [10.0**power * base for power in range(-4, 9) for base in (1, 2.5, 7)])
def test_the_axis_has_a_few_round_ticks(seconds: float) -> None:
    scale = timeline._Scale((NOON, NOON + timedelta(seconds=seconds)), is_open=False)
    labels = [label for _, label in scale.ticks()]
    assert 3 <= len(labels) <= 7 and len(set(labels)) == len(labels)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0"),
        (0.0003, "0.3ms"),
        (0.9994, "999ms"),
        (0.9999, "1s"),
        (59.96, "1m"),
        (3599.9, "1h"),
        (3725, "1h 2m"),
        (90000, "1d 1h"),
        (86460, "1d"),
    ],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert timeline._duration(seconds) == text


def luminance(colour: str) -> float:
    channels = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
    return sum(weight * each for weight, each in zip((0.2126, 0.7152, 0.0722), linear))


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio of two colours."""
    darker, lighter = sorted([luminance(one), luminance(other)])
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("shade", [0, timeline.DEEPEST_SHADE], ids=["paper", "the deepest branch"])
def test_every_colour_can_be_read_as_text(palette: Dict[str, str], shade: float) -> None:
    channels = (
        round(int(palette["paper"][i : i + 2], 16) * (1 - shade) + int(palette["text"][i : i + 2], 16) * shade)
        for i in (1, 3, 5)
    )
    ground = "#" + "".join(f"{each:02x}" for each in channels)
    assert {name: contrast(colour, ground) >= 4.5 for name, colour in palette.items() if name != "paper"} == {
        name: True for name in palette if name != "paper"
    }


def test_every_status_has_a_sign_of_its_own_and_not_colour_alone() -> None:
    looks = [*timeline.LOOKS.values(), timeline.SKIPPED, timeline._look("ANOTHER")]
    assert len({look.word for look in looks}) == len(looks)
    assert len({look.sign for look in looks}) == len({look.colour for look in looks}) + 1  # created and another


def test_a_thousand_steps_stay_a_small_file() -> None:
    assert len(to_svg(long_run(1000)).encode()) < 2_000_000 and len(to_html(long_run(1000)).encode()) < 3_000_000


class Browser:
    """Chromium without a screen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or ""
        for argument in ("--headless=new", "--disable-dev-shm-usage", *["--no-sandbox"] * (os.geteuid() == 0)):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))

    def open(
        self, text: str, width: int = 1280, height: int = 800, scheme: str = "light", ending: str = "html"
    ) -> None:
        """Open a file of that text in a window, or on a phone, of that size."""
        file = self.folder / f"run.{ending}"
        file.write_text(text, encoding="utf-8")
        for log in ("browser", "performance"):
            self.driver.get_log(log)
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.driver.get(file.as_uri())

    def __call__(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def pdf(self, is_landscape: bool) -> Any:
        """Print to sheets of A4."""
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        options = {"landscape": is_landscape, "paperWidth": 8.27, "paperHeight": 11.69}
        printed = self.driver.execute_cdp_cmd("Page.printToPDF", options)
        return pypdf.PdfReader(io.BytesIO(base64.b64decode(printed["data"])))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser. Where it is not installed, the test is skipped; in CI that is an error."""
    if not (webdriver and shutil.which("chromium") and shutil.which("chromedriver")):
        why = "No Chromium to look at pages with: apt-get install chromium chromium-driver; pip install '.[browser]'"
        pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)
    browser = Browser(tmp_path_factory.mktemp("pages"))
    yield browser
    browser.driver.quit()


VISIBLE_BARS = """
return [...document.querySelectorAll('.bar')].filter(bar => {
    bar.scrollIntoView({block: 'center'});
    const box = bar.getBoundingClientRect();
    const x = (box.left + box.right) / 2, y = (box.top + box.bottom) / 2;
    return box.width >= 1 && box.height >= 8 && box.left >= 0 && box.right <= document.documentElement.clientWidth
        && bar.contains(document.elementFromPoint(x, y));
}).length
"""
OVERFLOWS = "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
DESKTOP, PHONE = (1280, 800), (360, 740)


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("make", [nested_run, lambda: long_run(300)], ids=["nested", "300 steps"])
def test_each_bar_can_be_seen(browser: Browser, size: Any, make: Callable[[], RunLog]) -> None:
    run_log = make()
    browser.open(to_html(run_log), *size)
    assert browser(VISIBLE_BARS) == sum(len(each.attempts) for each in all_steps(run_log.steps))
    assert not browser(OVERFLOWS)
    assert browser.driver.get_log("browser") == []
    requests = [json.loads(entry["message"])["message"] for entry in browser.driver.get_log("performance")]
    urls = [each["params"]["request"]["url"] for each in requests if each["method"] == "Network.requestWillBeSent"]
    assert [url.rpartition("/")[2] for url in urls if not url.startswith("data:")] == ["run.html"]


def test_names_of_any_length_and_kind_stay_inside_the_screen_of_a_phone(browser: Browser) -> None:
    names = ["x" * 500, "<script>document.title = 'caught'</script>", "名前の長い手順" * 20, "W" * 40, "\u202eleft" * 9]
    browser.open(to_html(run_of(*(done(name, attempt(0, 9, message=name * 3)) for name in names))), *PHONE)
    assert not browser(OVERFLOWS)
    assert "caught" not in browser.driver.title
    assert browser(VISIBLE_BARS) == len(names)


def test_on_a_phone_nothing_written_covers_another_thing(browser: Browser) -> None:
    browser.open(to_html(nested_run()), *PHONE)
    overlapping = browser(
        """
        const written = [...document.querySelectorAll('.labels text, .bars text, .bar')]
            .map(each => each.getBoundingClientRect()).filter(box => box.width && box.height);
        return written.filter((one, i) => written.some((two, j) => i < j && one.left < two.right - 1
            && two.left < one.right - 1 && one.top < two.bottom - 4 && two.top < one.bottom - 4)).length"""
    )
    assert overlapping == 0
    assert browser("return parseFloat(getComputedStyle(document.querySelector('.labels text')).fontSize)") >= 12


def test_a_tap_on_a_bar_leads_to_what_is_known_of_it(browser: Browser) -> None:
    browser.open(to_html(nested_run()), *PHONE)
    bar = browser.driver.find_element("css selector", ".bar")
    assert "Error: Connection reset by peer" in bar.accessible_name
    bar.click()
    row = browser.driver.find_element("css selector", "tr:target")
    assert "load" in row.text and "attempt 1 of 2" in row.text and "Error: Connection reset by peer" in row.text
    assert 0 <= browser("return document.querySelector('tr:target').getBoundingClientRect().top") < PHONE[1]


def test_the_keyboard_reaches_every_bar(browser: Browser) -> None:
    browser.open(to_html(running_run()))
    reached: List[Optional[str]] = []
    for _ in range(4):
        browser.driver.switch_to.active_element.send_keys("\ue004")  # the key Tab
        reached.append(browser("return document.activeElement.getAttribute('href')"))
    assert reached == ["#steps", "#row-0-0", "#row-1-0", "#row-2-0"]


def test_it_is_dark_where_the_system_is(browser: Browser) -> None:
    backgrounds = []
    for scheme in ("light", "dark"):
        browser.open(to_html(nested_run()), scheme=scheme)
        backgrounds.append(browser("return getComputedStyle(document.body).backgroundColor"))
    rgb = [f"rgb({', '.join(str(int(each['paper'][i : i + 2], 16)) for i in (1, 3, 5))})" for each in (LIGHT, DARK)]
    assert backgrounds == rgb


@pytest.mark.parametrize("is_landscape", [False, True], ids=["upright", "across"])
def test_in_print_every_page_of_the_picture_has_whole_rows_and_the_axis(browser: Browser, is_landscape: bool) -> None:
    browser.open(to_html(long_run(100)))
    pages = [page.extract_text() for page in browser.pdf(is_landscape).pages]
    pictured = [re.findall(r"^✓ step (\d+)", page, re.MULTILINE) for page in pages]
    assert [name for names in pictured for name in names] == [str(number) for number in range(100)]
    assert 4 <= sum(map(bool, pictured)) <= 8
    assert all("0 30s 1m 1m 30s" in page for page, names in zip(pages, pictured) if names)


def test_the_svg_alone_shows_each_bar(browser: Browser) -> None:
    browser.open(to_svg(nested_run()), ending="svg")
    bars = browser("return [...document.querySelectorAll('.bar rect')].map(each => each.getBBox().width)")
    assert len(bars) == 12 and min(bars) > 1
    assert browser.driver.get_log("browser") == []
