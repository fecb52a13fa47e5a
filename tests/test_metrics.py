"""Series: the metrics that `track_this(step=...)` writes."""

import math
from types import SimpleNamespace
from typing import Any, Dict

import hypothesis.strategies as st
import pytest
from hypothesis import given

from magnus_peewee_store.cli.trees import _sparkline
from magnus_peewee_store.metrics import Point, Series, flatten, flatten_metrics, is_iteration, last_value

KEYS = st.sampled_from(["a", "b", "0", "1", "2", "10", "-3", "01", "a.b", "last"])
VALUES = st.recursive(
    st.integers() | st.floats() | st.text(max_size=3) | st.none(),
    lambda inner: st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3))
def test_each_value_is_one_value_or_one_point(metrics: Dict[str, Any]) -> None:
    flat = flatten_metrics(metrics)
    points = [value.points if isinstance(value, Series) else (Point(None, value),) for value in flat.values()]
    assert sorted(str(point.value) for each in points for point in each) == sorted(map(str, flatten(metrics).values()))
    for each in points:
        assert [point.iteration for point in each] == sorted(point.iteration for point in each)


@pytest.mark.parametrize(
    ("metrics", "flat"),
    [
        ({"loss": {"7": 0.5, "10": 0.25}}, {"loss": 0.25}),
        ({"eval": {"7": {"loss": 1, "f1": 2}, "8": {"loss": 3}}}, {"eval.loss": 3, "eval.f1": 2}),
        ({"a": {"b": {"0": 1, "1": 2}}}, {"a.b": 2}),
        ({"a": {"0": {"1": 1, "2": 2}, "1": {"1": 3}}}, {"a.1": 3, "a.2": 2}),
        ({"loss": {"7": 0.5}}, {"loss.7": 0.5}),
        ({"loss": {"7": 0.5, "x": 1}}, {"loss.7": 0.5, "loss.x": 1}),
        ({"loss": {"01": 1, "1": 2}}, {"loss.01": 1, "loss.1": 2}),
        ({"a": {"b": {"0": 1, "1": 2}}, "a.b": 3}, {"a[b]": 2, "a.b": 3}),
    ],
)
def test_series_is_named_without_its_iterations(metrics: Dict[str, Any], flat: Dict[str, Any]) -> None:
    assert {name: last_value(value) for name, value in flatten_metrics(metrics).items()} == flat


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", True), ("-1", True), ("9" * 18, True), ("9" * 19, False), ("007", False), ("1.5", False), ("", False)],
)
def test_iterations_are_whole_numbers(text: str, expected: bool) -> None:
    assert is_iteration(text) is expected


def test_nan_and_texts_are_no_minimum() -> None:
    [series] = flatten_metrics({"loss": {"0": math.nan, "1": 2, "2": "-5", "3": 1, "4": True, "5": 1}}).values()
    assert (series.min, series.max) == (Point(3, 1), Point(1, 2))
    [texts] = flatten_metrics({"loss": {"0": "a", "1": "b"}}).values()
    assert texts.min is None and str(texts) == '"b" (iteration 1)'


def test_curve_of_extreme_numbers_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    [series] = flatten_metrics({"loss": {"0": 1e308, "1": -1e308, "2": math.nan}}).values()
    with monkeypatch.context() as context:
        context.setattr("sys.stdout", SimpleNamespace(isatty=lambda: True, encoding="utf-8"))
        curve = _sparkline(series)
    assert curve == " \u2588\u2581"
