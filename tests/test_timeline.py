"""Test the timeline: its SVG and HTML for all kinds of run logs, and how a browser shows them."""

import html
import math
import re
import xml.etree.ElementTree as ET
from collections import OrderedDict
from datetime import datetime, timedelta, timezone
from typing import Any, Callable, Dict, Iterator, List, Optional

import pytest
from browser import DESKTOP, OVERFLOWS, PHONE, Browser, contrast
from hypothesis import given
from hypothesis import strategies as st
from logs import step
from magnus.datastore import BranchLog, RunLog, StepAttempt, StepLog

from magnus_peewee_store.heartbeat import Liveness
from magnus_peewee_store.logs import RunFacts
from magnus_peewee_store.metrics import MOST_POINTS, curve_of
from magnus_peewee_store.origin import Origin
from magnus_peewee_store.runs.annotate import Note
from magnus_peewee_store.timeline import to_html, to_svg
from magnus_peewee_store.timeline.layout import OPEN_END, Scale
from magnus_peewee_store.timeline.styles import DARK, LIGHT, SKIPPED, STATUS_STYLES, status_style
from magnus_peewee_store.timeline.svg import (
    DEEPEST_SHADE,
    add,
    draw_curve,
    element,
    replace_invalid,
    to_text,
)
from magnus_peewee_store.times import format_duration

SVG = "{http://www.w3.org/2000/svg}"
NOON = datetime(2024, 2, 29, 12)


def attempt(start: float, end: float, status: str = "SUCCESS", **more: Any) -> StepAttempt:
    """Return an attempt as magnus writes it, with times in seconds after noon."""
    times = [NOON + timedelta(seconds=seconds) for seconds in (start, end)]
    duration = str(times[1] - times[0])
    return StepAttempt(start_time=str(times[0]), end_time=str(times[1]), duration=duration, status=status, **more)


def make_run(*steps: StepLog, status: str = "SUCCESS", **more: Any) -> RunLog:
    return RunLog(run_id="run", status=status, steps=OrderedDict((each.internal_name, each) for each in steps), **more)


def succeeded(name: str, *attempts: StepAttempt, **more: Any) -> StepLog:
    return step(name, status="SUCCESS", attempts=list(attempts), **more)


def nested_run() -> RunLog:
    """Return a run with a retried step, a skipped step, and a map with a failed branch: 12 attempts in total."""
    branches: Dict[str, BranchLog] = {}
    for number, value in enumerate(["jan.csv", "feb.csv", "mar.csv"]):
        prefix, start, is_failed = f"each.{value}.", 20 + number, number == 1
        steps = [
            succeeded(f"{prefix}clean", attempt(start, start + 9)),
            step(
                f"{prefix}fit",
                status="FAIL" if is_failed else "SUCCESS",
                attempts=[
                    attempt(start + 9, start + 30, "FAIL" if is_failed else "SUCCESS", message="boom" * is_failed)
                ],
                user_defined_metrics={"auc": 0.5},
            ),
            succeeded(f"{prefix}{'fail' if is_failed else 'success'}", attempt(start + 30, start + 30.0004)),
        ]
        status = "FAIL" if is_failed else "SUCCESS"
        branch_steps = OrderedDict((each.internal_name, each) for each in steps)
        branches[prefix[:-1]] = BranchLog(internal_name=prefix[:-1], status=status, steps=branch_steps)
    return make_run(
        succeeded(
            "load", attempt(0, 8, "FAIL", message="Connection reset by peer"), attempt(9, 18, parameters={"days": 90})
        ),
        step("checked", status="SUCCESS", mock=True),
        step("each", status="FAIL", step_type="map", branches=branches),
        succeeded("fail", attempt(60, 60.001)),
        status="FAIL",
        tag="nightly",
    )


def running_run() -> RunLog:
    return make_run(succeeded("load", attempt(0, 30)), step("fit", status="PROCESSING"), status="PROCESSING")


def long_run(steps: int) -> RunLog:
    return make_run(*(succeeded(f"step {number}", attempt(number, number + 2)) for number in range(steps)))


def svg_groups(svg: str, css_class: str = "bar") -> List[ET.Element]:
    groups = ET.fromstring(svg).iter(f"{SVG}g")
    return [each for each in groups if css_class in each.get("class", "").split()]


def titles(svg: str, css_class: str = "bar") -> List[str]:
    return [each.findtext(f"{SVG}title") or "" for each in svg_groups(svg, css_class)]


def x_range(group: ET.Element) -> List[float]:
    rect = group.find(f"{SVG}rect")
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
        internal_name = prefix + name
        branches = (
            [f"{internal_name}.{value}" for value in draw(st.lists(NAMES, max_size=2, unique=True))] if depth else []
        )
        steps[internal_name] = StepLog(
            name=name,
            internal_name=internal_name,
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


@given(RUN_LOGS)
def test_svg_of_any_run_log_is_well_formed_and_complete(run_log: RunLog) -> None:
    svg = to_svg(run_log)
    labels = [each.text for each in ET.fromstring(svg).iter(f"{SVG}title")]
    for each in all_steps(run_log.steps):
        assert replace_invalid(each.internal_name) in labels
    assert len(svg_groups(svg)) == sum(len(each.attempts) for each in all_steps(run_log.steps))
    for group in svg_groups(svg) + svg_groups(svg, "open") + svg_groups(svg, "summary"):
        left, right = x_range(group)
        assert 0 <= left < right <= 100
    to_html(run_log).encode()


def test_invalid_xml_characters_are_replaced() -> None:
    [title] = titles(to_svg(make_run(succeeded("a\0b\x1bc\ud800d\ufffe", attempt(0, 1)))))
    assert title.splitlines()[0] == "a\u2400b\u241bc\ufffdd\ufffd"


def test_bar_positions_match_times() -> None:
    times = {"one": (0, 10), "two": (10, 40), "three": (30, 40)}
    svg = to_svg(make_run(*(succeeded(name, attempt(*start_and_end)) for name, start_and_end in times.items())))
    one, two, three = map(x_range, svg_groups(svg))
    assert one[0] == 0 and one[1] == two[0] == pytest.approx(two[1] / 4, abs=0.02)
    assert three == [pytest.approx(two[1] * 3 / 4, abs=0.02), two[1]]


def test_retried_step_has_one_bar_per_attempt() -> None:
    svg = to_svg(nested_run())
    failed_title, succeeded_title = titles(svg)[:2]
    assert failed_title.splitlines() == [
        "load",
        "✗ failed",
        "Attempt: 1 of 2",
        "Start: 2024-02-29 12:00:00.000",
        "End: 2024-02-29 12:00:08.000",
        "Duration: 8s",
        "Error: Connection reset by peer",
    ]
    assert "Attempt: 2 of 2" in succeeded_title and "Parameters: days = 90" in succeeded_title
    fills = [group.find(f"{SVG}rect").get("fill") for group in svg_groups(svg)[:2]]  # type: ignore[union-attr]
    assert fills == ["url(#hatch-fail)", None]


def test_branches_span_their_steps() -> None:
    svg = to_svg(nested_run())
    names = [title.splitlines()[0] for title in titles(svg, "summary")]
    spans = dict(zip(names, map(x_range, svg_groups(svg, "summary"))))
    assert list(spans) == ["run", "each", "each.jan.csv", "each.feb.csv", "each.mar.csv"]
    assert spans["each"] == pytest.approx([spans["each.jan.csv"][0], spans["each.mar.csv"][1]], abs=0.02)
    assert "Metrics: auc = 0.5" in next(title for title in titles(svg) if title.startswith("each.feb.csv.fit"))


def test_end_nodes_are_not_drawn() -> None:
    svg = to_svg(make_run(step("load", status="SUCCESS"), step("the end", step_type="success", status="SUCCESS")))
    assert "load" in svg and "the end" not in svg and "1 step<" in svg.replace("\u2003", "")


def test_running_step_has_an_open_bar() -> None:
    svg = to_svg(running_run())
    [open_bar] = svg_groups(svg, "open")
    assert x_range(open_bar) == [x_range(svg_groups(svg)[0])[1], OPEN_END]
    assert titles(svg, "open") == ["fit\n► running\nStart: after 2024-02-29 12:00:30.000"]
    assert "30s so far" in to_html(running_run())


@pytest.mark.parametrize("is_interrupted", [True, False], ids=["interrupted", "stale"])
def test_run_that_died_is_not_shown_as_running(is_interrupted: bool) -> None:
    liveness = Liveness(datetime(2024, 2, 29, tzinfo=timezone.utc), 90.0, True, is_interrupted)
    dead = RunFacts(running_run(), started=datetime(2024, 2, 28, tzinfo=timezone.utc), liveness=liveness)
    word = "interrupted" if is_interrupted else "stale"
    for drawing in (to_html(dead), to_svg(dead)):
        assert f"! {word}, last seen 1m 30s ago" in drawing and "► running" not in drawing
    assert titles(to_svg(dead), "open")[0].startswith(f"fit\n! {word}")
    assert "succeeded" in titles(to_svg(dead))[0]


def test_parameters_are_shown_only_where_they_changed() -> None:
    nan = float("nan")
    attempts = [attempt(0, 1, parameters=each) for each in ({"lr": 1, "n": nan}, {"lr": 1, "n": -nan}, {"lr": 2})]
    svg = to_svg(make_run(*(succeeded(str(i), each) for i, each in enumerate(attempts)), parameters={"lr": 2, "n": 3}))
    shown = [[line for line in each.splitlines() if line.startswith("Parameters")] for each in titles(svg)]
    assert shown == [["Parameters: lr = 1, n = nan"], [], ["Parameters: lr = 2"]]


def trained_run(**more: Any) -> RunFacts:
    """Return a failed run with two series, a parameter that a step set, data, and everything that is known of a run."""
    loss = {str(number): 1 / (number + 1) for number in range(100)}
    train = step(
        "train",
        status="FAIL",
        attempts=[attempt(0, 9, "FAIL", message="ValueError: <b>no</b> rows", parameters={"lr": 0.1})],
        user_defined_metrics={"loss": loss, "eval": {"7": {"auc": 0.5}, "8": {"auc": 0.25}}, "rows": 3},
        data_catalog=[{"name": "sales.csv", "data_hash": "0123456789abcdef", "stage": "get"}],
        code_identities=[{"code_identifier": "5f0f5e2", "code_identifier_type": "git"}],
    )
    config = {"pipeline_file": "pipeline.yaml"}
    run_log = make_run(train, status="FAIL", tag="nightly", parameters={"lr": 0.1, "best": 8}, run_config=config)
    origin = Origin(user="ada", host="lab", folder="forecast")
    note = Note("The <best> so far.", "bob", None)
    return RunFacts(run_log, origin=origin, tags=("release",), notes=(note,), complete_log=run_log, **more)


def text_of(page: str) -> str:
    """Return the text of the body of a page, with a space between elements."""
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", page[page.index("<body") :])).split())


def test_page_shows_the_facts_of_a_run() -> None:
    page = text_of(to_html(trained_run(), resume_command="magnus execute"))
    for text in (
        "Status ✗ failed Started 2024-02-29 12:00:00.000",
        "Duration 9s Tags nightly, release User ada Host lab Project forecast Pipeline pipeline.yaml",
        "Code git 5f0f5e2 (changed) The <best> so far. bob",
        "Start it again with: magnus execute",
    ):
        assert text in page
    assert page.index("Parameters") < page.index("Curves") < page.index("Timeline") < page.index("Details")


def test_page_shows_final_parameters_metrics_and_data() -> None:
    page = to_html(trained_run(), index_url="../index.html")
    assert "Parameters lr 0.1 best 8 set by a step Metrics train.loss 0.01" in text_of(page)
    assert "iteration 99; min 0.01 at 99, max 1 at 0 train.eval.auc 0.25 iteration 8; min 0.25 at 8" in text_of(page)
    assert "Data sales.csv get 0123456789ab" in text_of(page) and 'href="../index.html#data=0123456789ab"' in page
    assert page.count('class="curve"') == 2 and '0.5, "2"' not in page


def test_page_shows_why_a_step_failed() -> None:
    page = text_of(to_html(trained_run()))
    assert "✗ Failed: train ValueError: <b>no</b> rows Parameters" in page
    assert "rows epoch 3 Parameters" in text_of(to_html(trained_run(), outputs={"train": "epoch 3"}))


def test_text_of_a_head_is_html() -> None:
    head = element("head")
    add(head, "meta", charset="utf-8")
    add(head, "style", 'nav > a::after { content: "&"; }')
    add(head, "title", "a > b")
    style = '<style>nav > a::after { content: "&"; }</style>'
    assert to_text(head) == f'<head><meta charset="utf-8">{style}<title>a &gt; b</title></head>'


def test_curve_breaks_where_there_is_no_number() -> None:
    curve = ET.tostring(draw_curve(curve_of([(0, 1.0), (1, 2.0), (2, math.nan), (3, 1e308), (5, -1e308)])), "unicode")
    [path] = re.findall('curve-line" d="([^"]*)"', curve)
    assert path.count("M") == 2 and path.count("L") == 2 and "nan" not in path


def test_curve_of_the_smallest_numbers_is_flat() -> None:
    curve = ET.tostring(draw_curve([(0, 0.0), (1, 5e-324)]), "unicode")
    [heights] = re.findall('curve-line" d="M[^ ]* ([^L]*)L[^ ]* ([^h]*)h0"', curve)
    assert heights[0] == heights[1]


def test_curve_of_the_iterations_0_and_minus_0_is_drawn() -> None:
    run = make_run(step("train", user_defined_metrics={"loss": {"0": 1.0, "-0": 2.0}}))
    assert 'class="curve-line"' in to_html(run)


def test_curve_of_many_points_keeps_the_extremes() -> None:
    points = [(number, 0.0) for number in range(100_000)]
    points[4321], points[98765] = (4321, 7.0), (98765, -7.0)
    thin = curve_of(points)
    assert len(thin) <= MOST_POINTS + 2 and (4321, 7.0) in thin and (98765, -7.0) in thin
    assert (thin[0][0], thin[-1][0]) == (0, 99_999)


def test_run_without_steps_or_times() -> None:
    assert "No step has started yet." in to_svg(RunLog(run_id="new", status="PROCESSING"))
    assert "No step has started yet." in to_html(RunLog(run_id="new", status="PROCESSING"))
    started = make_run(step("load", status="PROCESSING"), status="PROCESSING")
    assert len(svg_groups(to_svg(started), "open")) == 1 and "Started" not in to_html(started)


def test_attempt_without_times_is_drawn() -> None:
    svg = to_svg(make_run(succeeded("one", attempt(0, 10)), step("two", status="FAIL", attempts=[StepAttempt()])))
    assert len(svg_groups(svg)) == 2 and "Start: not recorded\nEnd: not recorded" in titles(svg)[1]


def test_end_before_start_is_not_a_negative_duration() -> None:
    svg = to_svg(make_run(succeeded("one", attempt(5, 3))))
    assert "Duration: unknown: the recorded end is before the start" in titles(svg)[0]


@pytest.mark.parametrize("seconds", [10.0**power * base for power in range(-4, 9) for base in (1, 2.5, 7)])
def test_axis_has_three_to_seven_distinct_ticks(seconds: float) -> None:
    scale = Scale((NOON, NOON + timedelta(seconds=seconds)), is_open=False)
    labels = [label for _, label in scale.ticks()]
    assert 3 <= len(labels) <= 7 and len(set(labels)) == len(labels)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0003, "0.3ms"),
        (0.9994, "999ms"),
        (0.9999, "1s"),
        (59.96, "1m"),
        (125, "2m 05s"),
        (3599.9, "1h"),
        (3725, "1h 02m"),
        (90000, "1d 01h"),
        (86460, "1d"),
    ],
)
def test_duration_format(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_durations_on_the_axis_and_the_bars() -> None:
    svg = to_svg(make_run(succeeded("one", attempt(0, 125)), succeeded("two", attempt(125, 3725))))
    texts = [each.text for each in ET.fromstring(svg).iter(f"{SVG}text")]
    assert {"0s", "15m", "1h", "2m 05s", "1h 02m"} <= set(texts)
    assert "Duration: 2m 05s" in titles(svg)[0]


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("shade", [0, DEEPEST_SHADE], ids=["background", "deepest-branch"])
def test_colours_have_enough_contrast_for_text(palette: Dict[str, str], shade: float) -> None:
    channels = (
        round(int(palette["background"][i : i + 2], 16) * (1 - shade) + int(palette["text"][i : i + 2], 16) * shade)
        for i in (1, 3, 5)
    )
    background = "#" + "".join(f"{each:02x}" for each in channels)
    assert {name: contrast(colour, background) >= 4.5 for name, colour in palette.items() if name != "background"} == {
        name: True for name in palette if name != "background"
    }


def test_every_status_has_its_own_sign_and_word() -> None:
    styles = [*STATUS_STYLES.values(), SKIPPED, status_style("ANOTHER")]
    assert len({style.word for style in styles}) == len(styles)
    # CREATED and unknown statuses share a colour.
    assert len({style.sign for style in styles}) == len({style.colour for style in styles}) + 1


def test_file_size_of_a_thousand_steps() -> None:
    assert len(to_svg(long_run(1000)).encode()) < 2_000_000 and len(to_html(long_run(1000)).encode()) < 3_000_000


VISIBLE_BARS = """
return [...document.querySelectorAll('.bar')].filter(bar => {
    bar.scrollIntoView({block: 'center'});
    const box = bar.getBoundingClientRect();
    const x = (box.left + box.right) / 2, y = (box.top + box.bottom) / 2;
    return box.width >= 1 && box.height >= 8 && box.left >= 0 && box.right <= document.documentElement.clientWidth
        && bar.contains(document.elementFromPoint(x, y));
}).length
"""


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("make", [nested_run, lambda: long_run(300)], ids=["nested", "300-steps"])
def test_every_bar_is_visible(browser: Browser, size: Any, make: Callable[[], RunLog]) -> None:
    run_log = make()
    browser.open(to_html(run_log), *size)
    assert browser(VISIBLE_BARS) == sum(len(each.attempts) for each in all_steps(run_log.steps))
    assert not browser(OVERFLOWS)
    assert browser.driver.get_log("browser") == []
    assert [url.rpartition("/")[2] for url in browser.requests()] == ["run.html"]


def test_long_and_unusual_names_fit_a_phone(browser: Browser) -> None:
    names = ["x" * 500, "<script>document.title = 'caught'</script>", "名前の長い手順" * 20, "W" * 40, "\u202eleft" * 9]
    browser.open(to_html(make_run(*(succeeded(name, attempt(0, 9, message=name * 3)) for name in names))), *PHONE)
    assert not browser(OVERFLOWS)
    assert "caught" not in browser.driver.title
    assert browser(VISIBLE_BARS) == len(names)


def test_texts_and_bars_do_not_overlap_on_a_phone(browser: Browser) -> None:
    browser.open(to_html(nested_run()), *PHONE)
    overlapping = browser(
        """
        const boxes = [...document.querySelectorAll('.labels text, .bars text, .bar')]
            .map(each => each.getBoundingClientRect()).filter(box => box.width && box.height);
        return boxes.filter((one, i) => boxes.some((two, j) => i < j && one.left < two.right - 1
            && two.left < one.right - 1 && one.top < two.bottom - 4 && two.top < one.bottom - 4)).length"""
    )
    assert overlapping == 0
    assert browser("return parseFloat(getComputedStyle(document.querySelector('.labels text')).fontSize)") >= 12


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_curves_and_results_fit_the_page(browser: Browser, size: Any, scheme: str) -> None:
    run = trained_run()
    run.run_log.parameters.update({f"{'name' * 30}{number}": "value" * 90 for number in range(50)})
    browser.open(to_html(run, resume_command="magnus execute " * 30), *size, scheme)
    assert not browser(OVERFLOWS) and browser.driver.get_log("browser") == []
    widths = browser("return [...document.querySelectorAll('.curve-line')].map(e => e.getBoundingClientRect().width)")
    assert len(widths) == 2 and min(widths) > 200
    box = "document.querySelector('.values')"
    assert browser(f"return {box}.scrollHeight > {box}.clientHeight && {box}.clientHeight <= 300")


def test_tapping_a_bar_shows_its_table_row(browser: Browser) -> None:
    browser.open(to_html(nested_run()), *PHONE)
    bar = browser.driver.find_element("css selector", ".bar")
    assert "Error: Connection reset by peer" in bar.accessible_name
    bar.click()
    row = browser.driver.find_element("css selector", "tr:target")
    assert "load" in row.text and "attempt 1 of 2" in row.text and "Error: Connection reset by peer" in row.text
    assert 0 <= browser("return document.querySelector('tr:target').getBoundingClientRect().top") < PHONE[1]


def test_every_bar_is_reachable_by_keyboard(browser: Browser) -> None:
    browser.open(to_html(running_run()))
    reached: List[Optional[str]] = []
    for _ in range(4):
        browser.driver.switch_to.active_element.send_keys("\ue004")  # the Tab key
        reached.append(browser("return document.activeElement.getAttribute('href')"))
    assert reached == ["#steps", "#row-0-0", "#row-1-0", "#row-2-0"]


def test_dark_mode_follows_the_system(browser: Browser) -> None:
    backgrounds = []
    for scheme in ("light", "dark"):
        browser.open(to_html(nested_run()), scheme=scheme)
        backgrounds.append(browser("return getComputedStyle(document.body).backgroundColor"))
    rgb = [
        f"rgb({', '.join(str(int(each['background'][i : i + 2], 16)) for i in (1, 3, 5))})" for each in (LIGHT, DARK)
    ]
    assert backgrounds == rgb


@pytest.mark.parametrize("is_landscape", [False, True], ids=["portrait", "landscape"])
def test_every_printed_page_has_whole_rows_and_the_axis(browser: Browser, is_landscape: bool) -> None:
    browser.open(to_html(long_run(100)))
    pages = [page.extract_text() for page in browser.pdf(is_landscape).pages]
    steps_per_page = [re.findall(r"^✓ step (\d+)", page, re.MULTILINE) for page in pages]
    assert [name for names in steps_per_page for name in names] == [str(number) for number in range(100)]
    assert 4 <= sum(map(bool, steps_per_page)) <= 8
    assert all("0s 30s 1m 1m 30s" in page for page, names in zip(pages, steps_per_page) if names)


def test_svg_file_shows_every_bar(browser: Browser) -> None:
    browser.open(to_svg(nested_run()), ending="svg")
    bars = browser("return [...document.querySelectorAll('.bar rect')].map(each => each.getBBox().width)")
    assert len(bars) == 12 and min(bars) > 1
    assert browser.driver.get_log("browser") == []
