"""Test the commands that list, compare and find runs by parameters and metrics."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest
from click.testing import CliRunner
from logs import attempted_step, sample_run
from magnus.datastore import BranchLog, RunLog, StepLog
from test_liveness import add_beat

from magnus_peewee_store import DBStore, cli
from magnus_peewee_store.runs.search import FIELDS

Command = Callable[..., Any]


@pytest.fixture
def magnus_db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return a function that runs a command on a database with four runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MAGNUS_DB_CONNECTION_STRING", raising=False)
    store = DBStore(connection_string=f"sqlite:///{tmp_path}/.run_log_store/run_log.db")
    for run_id, rmse, lr in (("one", 0.123456789, 0.1), ("two", 0.7, 0.01), ("three", math.nan, 0.1)):
        put(store, run_id, {"rmse": rmse, "r2 score": 1}, lr=lr, **{"batch size": 16})
    store.put_run_log(RunLog(run_id="four", status="FAIL"))
    store.close()

    def run(*arguments: str, exit_code: int = 0) -> Any:
        result = CliRunner().invoke(cli.db, list(arguments))
        assert result.exit_code == exit_code, result.output
        return result

    return run


def put(store: DBStore, run_id: str, metrics: Dict[str, Any], **parameters: Any) -> None:
    train = attempted_step("train", "10:00:00", "10:00:01", user_defined_metrics=metrics)
    store.put_run_log(RunLog(run_id=run_id, status="SUCCESS", steps={"train": train}, parameters=parameters))


def cells(output: str) -> List[List[str]]:
    return [line.split() for line in output.splitlines()]


def test_runs_filters_sorts_and_shows_parameters_and_metrics(magnus_db: Command) -> None:
    where = ["--where", "batch size = 16", "--where", "r2 score=1", "--where", "rmse<1"]
    heading, *rows = cells(magnus_db("runs", *where, "--sort", "rmse", "--params", "--metrics").stdout)
    assert heading == ["RUN", "STATUS", "STARTED", "TOOK", "lr", "batch", "size", "rmse", "r2", "score"]
    assert [[row[0], *row[-4:]] for row in rows] == [
        ["one", "0.1", "16", "0.123457", "1"],
        ["two", "0.01", "16", "0.7", "1"],
    ]


def test_runs_shows_the_sorted_name_and_the_largest_first(magnus_db: Command) -> None:
    heading, *rows = cells(magnus_db("runs", "--sort", "lr", "--desc").stdout)
    assert heading[-1] == "lr" and [row[0] for row in rows] == ["three", "one", "two", "four"]


def test_runs_shows_chosen_columns(magnus_db: Command) -> None:
    output = magnus_db("runs", "--columns", "duration, lr,train.rmse", "--limit", "2", "--where", "lr<1").stdout
    assert cells(output) == [
        ["RUN", "duration", "lr", "train.rmse"],
        ["three", "1s", "0.1", "NaN"],
        ["two", "1s", "0.01", "0.7"],
    ]


def test_runs_prints_csv_with_full_numbers(magnus_db: Command) -> None:
    rows = list(csv.DictReader(io.StringIO(magnus_db("runs", "--csv", "--sort", "rmse").stdout)))
    assert [row["run_id"] for row in rows] == ["one", "two", "three", "four"]
    assert (rows[0]["metrics.train.rmse"], rows[0]["params.lr"], rows[0]["duration"]) == ("0.123456789", "0.1", "1.0")
    assert rows[3]["metrics.train.rmse"] == "" and rows[3]["status"] == "FAIL"
    chosen = magnus_db("runs", "--csv", "--columns", "rmse,status", "--where", "run_id=one").stdout
    assert chosen == "run_id,rmse,status\none,0.123456789,SUCCESS\n"


def test_csv_and_json_have_all_runs_and_each_column_once(magnus_db: Command) -> None:
    store = DBStore(connection_string="sqlite:///.run_log_store/run_log.db")
    for number in range(20):
        store.put_run_log(sample_run(f"run {number}"))
    store.close()
    result = magnus_db("runs", "--csv")
    heading, *rows = csv.reader(io.StringIO(result.stdout))
    assert len(rows) == len(json.loads(magnus_db("runs", "--json").stdout)) == 24 and result.stderr == ""
    assert len({*heading}) == len(heading) and heading[: len(FIELDS)] == [*FIELDS]
    assert len(magnus_db("runs", "--csv", "--limit", "2").stdout.splitlines()) == 3
    assert len(json.loads(magnus_db("runs", "--json", "--limit", "2").stdout)) == 2
    assert len(magnus_db("runs").stdout.splitlines()) == 21
    chosen = magnus_db("runs", "--csv", "--columns", "lr,run_id,lr,status", "--where", "run_id=one").stdout
    assert chosen == "run_id,lr,status\none,0.1,SUCCESS\n"
    shown = magnus_db("runs", "--columns", "run_id", "--where", "run_id=one").stdout
    assert cells(shown) == [["RUN"], ["one"]]


def test_json_has_the_state_beside_the_status(magnus_db: Command) -> None:
    store = DBStore(connection_string="sqlite:///.run_log_store/run_log.db")
    store.create_run_log("dead", status="PROCESSING")
    add_beat(store, 1000, "dead")
    store.close()
    for command in (["show", "dead"], ["runs", "--status", "STALE"]):
        found = json.loads(magnus_db(*command, "--json").stdout)
        run = found if isinstance(found, dict) else found[0]
        assert (run["status"], run["state"]) == ("PROCESSING", "STALE")


def test_runs_prints_json_with_params_and_metrics(magnus_db: Command) -> None:
    [run] = json.loads(magnus_db("runs", "--json", "--where", "run_id=one").stdout)
    assert run["params"] == {"lr": 0.1, "batch size": 16}
    assert run["metrics"] == {"train.rmse": 0.123456789, "train.r2 score": 1} and run["reused"] == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--limit", "2"], "2 of 4 runs; --limit 4 shows all"),
        (["--limit", "1", "--where", "lr=0.1"], "1 of 2 runs; --limit 2 shows all"),
        (["--limit", "1", "--status", "success"], "1 of 3 runs; --limit 3 shows all"),
        (["--limit", "4"], ""),
        (["--status", "FAILED"], ""),
        (["--where", "lr>5"], "No runs match."),
    ],
)
def test_runs_says_when_the_list_is_incomplete(magnus_db: Command, options: List[str], message: str) -> None:
    assert magnus_db("runs", *options).stderr.strip() == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--status", "DONE"],
            "'DONE' is not a status. The statuses are CREATED, TRIGGERED, PROCESSING, SUCCESS, FAIL",
        ),
        (["--where", "rsme<1"], "No run has a parameter or metric 'rsme'. Did you mean rmse"),
        (["--sort", "r2scor"], "No run has a parameter or metric 'r2scor'. Did you mean r2 score"),
        (["--columns", "lr,rm"], "No run has a parameter or metric 'rm'. Did you mean rmse"),
        (["--where", "rmse"], "'rmse' is not a condition."),
        (["--sort", "zzz"], "'zzz'. To see the names, run magnus db runs --params --metrics."),
    ],
)
def test_unknown_statuses_and_names_are_errors(magnus_db: Command, options: List[str], message: str) -> None:
    assert message in magnus_db("runs", *options, exit_code=1).output


@pytest.mark.parametrize("options", [["--csv", "--json"], ["--desc"]])
def test_options_that_do_not_fit_together_are_errors(magnus_db: Command, options: List[str]) -> None:
    magnus_db("runs", *options, exit_code=2)


def test_columns_without_room_are_named(magnus_db: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DBStore(connection_string="sqlite:///.run_log_store/run_log.db")
    put(store, "many", {f"a rather long metric {number}": number for number in range(9)})
    store.close()
    monkeypatch.setattr("magnus_peewee_store.cli.terminal.UNLIMITED", 80)
    result = magnus_db("runs", "--metrics", "--where", "run_id=many")
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "No room for metrics.train.a rather long metric" in result.stderr and "--columns" in result.stderr


@pytest.fixture
def series(magnus_db: Command) -> Command:
    """Add a run with series to the database."""
    store = DBStore(connection_string="sqlite:///.run_log_store/run_log.db")
    losses = {str(iteration): 1 / (iteration + 1) for iteration in range(100)}
    put(store, "many", {"loss": losses, "eval": {"0": {"f1": 0.5}, "1": {"f1": 0.75}}})
    put(store, "few", {"loss": {"0": 0.5, "1": 0.25}})
    store.close()
    return magnus_db


def test_series_is_one_column_with_its_last_value(series: Command) -> None:
    heading, row = cells(series("runs", "--metrics", "--where", "run_id=many").stdout)
    assert (heading[-2:], row[-2:]) == (["loss", "f1"], ["0.01", "0.75"])
    heading, row = cells(series("runs", "--columns", "loss.first,loss.min,loss.1", "--where", "run_id=few").stdout)
    assert (heading, row) == (["RUN", "loss.first", "loss.min", "loss.1"], ["few", "0.5", "0.25", "0.25"])
    assert series("runs", "--csv").stdout.splitlines()[0].count("loss") == 1
    assert json.loads(series("runs", "--json").stdout)[0]["metrics"] == {"train.loss": 0.25}


def test_show_and_diff_have_one_line_for_a_series(series: Command) -> None:
    assert "metric loss: 0.01 (iteration 99; min 0.01 at 99)\n" in series("show", "many").stdout
    output = series("diff", "many", "few").stdout
    assert "train.loss: 0.01 (iteration 99; min 0.01 at 99) \u2192 0.25 (iteration 1; min 0.25 at 1)" in output
    assert json.loads(series("diff", "many", "few", "--json").stdout)["metrics"]["train.loss"] == {"a": 0.01, "b": 0.25}


def test_plot_writes_a_page_with_a_curve_for_each_run(series: Command, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    assert series("plot", "loss", "many", "few").stdout == "Wrote loss.html.\n"
    assert "many" in (tmp_path / "loss.html").read_text(encoding="utf-8")
    assert "Did you mean loss" in series("plot", "lost", "many", exit_code=1).output


def put_map(store: DBStore, run_id: str, values: Dict[str, float]) -> None:
    """Write a run with a map that logged a metric for each value, in this order."""
    branches = {}
    for name, rmse in values.items():
        work = attempted_step(f"each.{name}.fit", "10:00:00", "10:00:01", user_defined_metrics={"rmse": rmse})
        branches[f"each.{name}"] = BranchLog(internal_name=f"each.{name}", steps={work.internal_name: work})
    each = StepLog(name="each", internal_name="each", step_type="map", branches=branches)
    store.put_run_log(RunLog(run_id=run_id, status="SUCCESS", steps={"each": each}))


def test_columns_name_the_branch_of_each_value(magnus_db: Command) -> None:
    store = DBStore(connection_string="sqlite:///.run_log_store/run_log.db")
    put_map(store, "map-one", {"rome": 15.2, "berlin": 14.9, "1.5": 3, "1.6": 4})
    put_map(store, "map-two", {"berlin": 14.8, "rome": 15.1})
    put_map(store, "map-three", {"rome": 9.5})
    store.close()
    arguments = ["runs", "--columns", "rmse", "--where", "run_id~map-"]
    expected = {
        "map-one": "1.5=3, 1.6=4, berlin=14.9, rome=15.2",
        "map-two": "berlin=14.8, rome=15.1",
        "map-three": "rome=9.5",
    }
    rows = list(csv.reader(io.StringIO(magnus_db(*arguments, "--csv").stdout)))
    assert dict(rows[1:]) == expected
    lines = magnus_db(*arguments).stdout.splitlines()[1:]
    assert {line.split()[0]: line.split(maxsplit=1)[1].rstrip() for line in lines} == expected


def test_columns_without_branches_name_the_whole_metric(magnus_db: Command) -> None:
    store = DBStore(connection_string="sqlite:///.run_log_store/run_log.db")
    steps = {name: StepLog(name=name, internal_name=name, user_defined_metrics={"mae": 1}) for name in ("test", "fit")}
    store.put_run_log(RunLog(run_id="two-steps", status="SUCCESS", steps=steps))
    store.close()
    output = magnus_db("runs", "--columns", "mae", "--where", "run_id=two-steps", "--csv").stdout
    assert output == 'run_id,mae\ntwo-steps,"fit.mae=1, test.mae=1"\n'


def test_csv_quotes_a_lone_carriage_return(magnus_db: Command) -> None:
    store = DBStore(connection_string="sqlite:///.run_log_store/run_log.db")
    put(store, "return", {}, text="a\rb")
    store.close()
    output = magnus_db("runs", "--csv", "--columns", "text", "--where", "run_id=return").stdout_bytes
    assert output == b'run_id,text\nreturn,"a\rb"\n'


def test_json_has_no_numbers_that_strict_parsers_refuse(magnus_db: Command) -> None:
    store = DBStore(connection_string="sqlite:///.run_log_store/run_log.db")
    values = {"nan": math.nan, "inner": [math.inf, {"low": -math.inf}], "finite": 1.5}
    put(store, "infinite", values)
    store.put_run_log(sample_run("other"))
    store.close()

    def refuse(name: str) -> None:
        raise AssertionError(name)

    def parse(*arguments: str) -> Any:
        return json.loads(magnus_db(*arguments, "--json").stdout, parse_constant=refuse)

    expected = {"nan": "NaN", "inner": ["Infinity", {"low": "-Infinity"}], "finite": 1.5}
    assert parse("show", "infinite")["steps"]["train"]["user_defined_metrics"] == expected
    assert parse("show", "infinite", "--step", "train")["user_defined_metrics"] == expected
    [run] = parse("runs", "--where", "run_id=infinite")
    assert run["metrics"] == {f"train.{name}": value for name, value in expected.items()}
    assert parse("diff", "infinite", "other")["metrics"]["train.nan"] == {"a": "NaN"}


def test_two_conditions_in_one_option_are_refused_with_the_way(magnus_db: Command) -> None:
    output = magnus_db("runs", "--where", "batch size>=10 and lr<0.1", exit_code=1).output
    assert "--where 'batch size>=10' --where 'lr<0.1'" in output


def test_show_prints_json_with_what_a_rerun_reused(magnus_db: Command) -> None:
    store = DBStore(connection_string="sqlite:///.run_log_store/run_log.db")
    train = StepLog(name="train", internal_name="train", status="SUCCESS", mock=True)
    store.put_run_log(RunLog(run_id="again", status="SUCCESS", original_run_id="two", steps={"train": train}))
    store.close()
    shown = json.loads(magnus_db("show", "again", "--json").stdout)
    assert shown["reused"] == {"train": "two"}
    assert shown["steps"]["train"]["user_defined_metrics"] == {"rmse": 0.7, "r2 score": 1}
    assert json.loads(magnus_db("show", "again", "--step", "train", "--json").stdout)["reused"] == "two"
    assert json.loads(magnus_db("show", "two", "--step", "train", "--json").stdout)["reused"] is None


def test_diff_of_three_runs_has_a_column_each(magnus_db: Command) -> None:
    output = magnus_db("diff", "one", "latest~2", "three").stdout
    assert cells(output) == [
        ["one", "two", "three"],
        ["parameters"],
        ["lr", "0.1", "0.01", "0.1"],
        ["metrics"],
        ["train.rmse", "0.123457", "0.7", "NaN"],
    ]
    found = json.loads(magnus_db("diff", "one", "two", "three", "--json").stdout)
    assert found["parameters"] == {"lr": {"one": 0.1, "two": 0.01, "three": 0.1}}


def test_diff_says_the_common_beginning_of_names_once(magnus_db: Command) -> None:
    store = DBStore(connection_string="sqlite:///.run_log_store/run_log.db")
    for number in (1, 2, 3):
        data = [{"name": f"data/{name}.bin", "stage": "put", "data_hash": f"{number}" * 64} for name in "ab"]
        train = attempted_step("train", "10:00:00", "10:00:01", data_catalog=data)
        parameters = {"model": {"lr": number, "depth": number}, "seed": number}
        store.put_run_log(RunLog(run_id=f"run-{number}", steps={"train": train}, parameters=parameters))
    store.close()
    assert cells(magnus_db("diff", "run-1", "run-2", "run-3").stdout) == [
        ["run-", "1", "2", "3"],
        ["parameters"],
        ["model."],
        ["lr", "1", "2", "3"],
        ["depth", "1", "2", "3"],
        ["seed", "1", "2", "3"],
        ["data"],
        ["train", "put"],
        *([f"data/{name}.bin", "1" * 12, "2" * 12, "3" * 12] for name in "ab"),
    ]


def test_diff_of_chosen_sections(magnus_db: Command) -> None:
    for run_ids in (["one", "two"], ["one", "two", "three"]):
        output = magnus_db("diff", *run_ids, "--only", "metrics, code").stdout
        assert "rmse" in output and "lr" not in output
        found = json.loads(magnus_db("diff", *run_ids, "--only", "parameters", "--json").stdout)
        assert found["parameters"]["lr"] and not found["metrics"]
    assert "Nothing differs." in magnus_db("diff", "one", "two", "--only", "code").stdout
    assert (
        "'params' is not one of run, parameters,"
        in magnus_db("diff", "one", "two", "--only", "params", exit_code=2).output
    )


def test_only_changed_leaves_out_what_all_runs_have_alike(magnus_db: Command) -> None:
    where = ["--where", "batch size=16"]
    heading = magnus_db("runs", "--params", "--metrics", "--only-changed", *where).stdout.splitlines()[0].split()
    assert heading[4:] == ["lr", "rmse"]
    heading = magnus_db("runs", "--csv", "--only-changed", *where).stdout.splitlines()[0].split(",")
    assert heading[len(FIELDS) :] == ["params.lr", "metrics.train.rmse"]
    alone = magnus_db("runs", "--params", "--only-changed", "--where", "run_id=one").stdout
    assert "batch size" in alone
    with_missing = magnus_db("runs", "--params", "--only-changed").stdout  # run "four" has no parameters
    assert "batch size" in with_missing


def test_report_leaves_out_what_all_runs_have_alike(magnus_db: Command) -> None:
    where = ["--where", "batch size=16"]
    for option, is_shown in (([], True), (["--only-changed"], False)):
        magnus_db("report", "-o", "report", *where, *option)
        index = Path("report/index.html").read_text(encoding="utf-8")
        assert "metrics.train.rmse" in index and "params.lr" in index
        assert ("params.batch size" in index) == ("metrics.train.r2 score" in index) == is_shown


def test_what_all_runs_have_alike_makes_room(magnus_db: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DBStore(connection_string="sqlite:///.run_log_store/run_log.db")
    for number in range(2):
        put(store, f"many {number}", {f"metric {each}": number if each == 8 else 0 for each in range(9)})
    store.close()
    monkeypatch.setattr("magnus_peewee_store.cli.terminal.UNLIMITED", 80)
    result = magnus_db("runs", "--metrics", "--where", "run_id~many")
    assert result.stdout.splitlines()[0].endswith("  metric 8") and "metric 0" not in result.stdout
    assert "the same in all runs: metrics.train.metric 0" in result.stderr and "No room" not in result.stderr
    chosen = magnus_db("runs", "--columns", "metric 0,metric 1", "--where", "run_id~many").stdout
    assert "metric 0" in chosen


def test_diff_shows_all_digits_where_six_are_equal(magnus_db: Command) -> None:
    store = DBStore(connection_string="sqlite:///.run_log_store/run_log.db")
    put(store, "near", {"rmse": 0.1234567891, "r2 score": 1}, lr=0.1, **{"batch size": 16})
    store.close()
    assert "0.123456789 \u2192 0.1234567891" in magnus_db("diff", "one", "near").stdout


@pytest.mark.parametrize("command", ["show", "logs"])
def test_latest_with_a_number_names_a_run(magnus_db: Command, command: str) -> None:
    assert "SUCCESS" in magnus_db(command, "latest~1").output or command == "logs"
    assert "There is no run 'latest~9': the database has 4." in magnus_db(command, "latest~9", exit_code=1).output
    assert "No such option" in magnus_db(command, "-2", exit_code=2).output


def test_latest_is_deleted_and_exported(magnus_db: Command) -> None:
    assert "1 exported." in magnus_db("export", "latest:SUCCESS", "-o", "out").output
    assert [path.name for path in Path("out").iterdir()] == ["three.json"]
    magnus_db("delete", "latest", "--yes")
    assert "four" not in magnus_db("runs").output


def test_show_of_a_successful_run_has_no_resume_command(magnus_db: Command) -> None:
    assert "Start it again with: its script, with execute(...)" in magnus_db("show", "four").output
    successful = magnus_db("show", "one").output
    assert "Start it" not in successful and "Resume" not in successful and "rmse: 0.123457" in successful


def test_tags_and_failed_steps_stay_on_the_line_of_the_run(magnus_db: Command) -> None:
    store = DBStore(connection_string="sqlite:///.run_log_store/run_log.db")
    store.put_run_log(sample_run("tagged", "FAIL", tag="nightly"))
    store.close()
    lines = magnus_db("runs").stdout.splitlines()
    assert len(lines) == 6 and "nightly" in lines[1] and "each.feb.csv.work" in lines[1]


def test_csv_for_spreadsheets_has_no_formulas(magnus_db: Command) -> None:
    store = DBStore(connection_string="sqlite:///.run_log_store/run_log.db")
    put(store, "=cmd()", {"loss": -0.5}, name="@sum", text="- not a number")
    store.close()
    chosen = ("runs", "--csv", "--columns", "name,loss,text", "--where", "name=@sum")
    assert magnus_db(*chosen, "--no-formulas").stdout.splitlines()[1] == "'=cmd(),'@sum,-0.5,'- not a number"
    assert magnus_db(*chosen).stdout.splitlines()[1] == "=cmd(),@sum,-0.5,- not a number"
    assert "'=cmd(),SUCCESS" in magnus_db("runs", "--csv", "--no-formulas").stdout
