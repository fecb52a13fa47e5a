"""Write a static site of many runs: a table, plots, and a page with the timeline of each run.

It works from a file:// address without a network. plotly and itables are imported only when a site is written.
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import string
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

from magnus_peewee_store.exceptions import MissingLibraryError
from magnus_peewee_store.logs import steps_of
from magnus_peewee_store.report.plots import CLICK, Plot, draw_plots
from magnus_peewee_store.report.run_table import Column, escape, field_columns, table_options, value_columns
from magnus_peewee_store.runs.read import Run, complete_run, read_exactly
from magnus_peewee_store.runs.search import METRICS, PARAMS, Condition, all_names
from magnus_peewee_store.runs.summaries import RunSummary
from magnus_peewee_store.runs.transfer import write_atomically
from magnus_peewee_store.store import DBStore, RunNotFoundError
from magnus_peewee_store.timeline.page import shorten_hash, to_html
from magnus_peewee_store.timeline.styles import FONT, custom_properties, palette_css, read_file, status_style

INDEX, PLOTLY, PAGES = "index.html", "plotly.min.js", "runs"  # the files of a site, and the folder of its pages
GENERATOR = '<meta name="generator" content="magnus-peewee-store">'  # marks an index that this module wrote
MOST_COLUMNS = 200  # parameters, and as many metrics, in the table

_PAGE_NAME = re.compile(r"[a-z0-9_.-]*-[0-9a-f]{16}\.(html|js)")


def write_site(
    store: DBStore,
    found: Sequence[RunSummary],
    folder: Path,
    where: Sequence[Condition] = (),
    progress: Callable[[int], Any] = lambda runs: None,
    resume_command: Callable[[Run], str] = lambda run: "",
    outputs: Callable[[Run], Mapping[str, str]] = lambda run: {},
) -> Path:
    """Write the site of some runs, and return its index. It replaces an earlier one in the folder.

    Two writers of one folder take turns. `progress` is called with 1 after each run. `outputs` returns the end of the
    output of each failed step. If plotly or itables is missing, a MissingLibraryError is raised; if the folder contains
    other files, a FileExistsError.
    """
    plotly_script, table_script = read_libraries()
    check_folder(folder)
    pages = folder / PAGES
    pages.mkdir(parents=True, exist_ok=True)
    with _sole_writer(pages):
        written: List[RunSummary] = []
        files: Set[str] = set()
        users: Dict[str, List[int]] = {}
        for summary in found:
            run_id = summary.run_id
            with contextlib.suppress(RunNotFoundError):  # It may have been deleted meanwhile.
                run = complete_run(store, read_exactly(store, run_id))
                texts = {page_name(run_id): to_html(run, f"../{INDEX}", resume_command(run), outputs(run))}
                if run.curves:
                    # From this script, the index takes the curves of the run when runs are compared.
                    series = {name: [*zip(*points)] for name, points in run.curves.items()}
                    texts[page_name(run_id, "js")] = f"receiveSeries({json.dumps(series)});\n"
                for name, text in texts.items():
                    write_atomically(pages / name, text)
                files.update(texts)
                for data_hash in {data.data_hash for step in steps_of(run.complete_log) for data in step.data_catalog}:
                    users.setdefault(shorten_hash(data_hash), []).append(len(written))
                written.append(summary)
            progress(1)
        write_atomically(folder / PLOTLY, plotly_script)
        index = folder / INDEX
        write_atomically(index, draw_index(written, where, table_script, users))
        for path in list(pages.iterdir()):
            if path.name not in files and _PAGE_NAME.fullmatch(path.name):
                path.unlink()
        return index


@contextlib.contextmanager
def _sole_writer(folder: Path) -> Iterator[None]:
    """Wait until no other process writes a report here: each would remove pages that the other links."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, OSError):  # Windows, and file systems without locks
            import fcntl

            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def page_name(run_id: str, ending: str = "html") -> str:
    """Return the name of a run's page. It has a hash, and only characters that every file system accepts."""
    start = re.sub("[^a-z0-9_.-]+", "-", run_id.lower())[:40].lstrip(".")
    return f"{start}-{hashlib.sha256(run_id.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}.{ending}"


def check_folder(folder: Path) -> None:
    """Raise FileExistsError if a folder contains files besides an earlier report. Hidden files do not count."""
    if not folder.exists():
        return
    for path in sorted(folder.iterdir()):
        if not path.name.startswith(".") and not _is_of_report(path):
            raise FileExistsError(
                f"'{path}' is not part of a report. A report needs a folder of its own. "
                f"Name another folder than '{folder}'."
            )


def _is_of_report(path: Path) -> bool:
    if path.name == INDEX:
        return path.is_file() and GENERATOR in path.read_text(encoding="utf-8", errors="replace")[:1000]
    if path.name == PAGES:
        return path.is_dir() and all(_PAGE_NAME.fullmatch(each.name) or each.name[0] == "." for each in path.iterdir())
    return path.name == PLOTLY


def read_libraries() -> Tuple[str, Path]:
    """Return plotly's script, and the path of DataTables' script. The stylesheet of DataTables is beside its script."""
    try:
        from itables import options
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise MissingLibraryError(
            "A report needs plotly and itables, which are not installed. Run: pip install plotly itables"
        ) from None
    return get_plotlyjs(), Path(options.dt_bundle)


def draw_index(
    found: Sequence[RunSummary],
    where: Sequence[Condition],
    table_script: Path,
    users: Optional[Mapping[str, Sequence[int]]] = None,
) -> str:
    """Return the page with the table, the comparison and the plots.

    `table_script` is the path of DataTables' script. `users` has the indices of the runs that used a content, by the
    beginning of its hash.
    """
    fields = field_columns(found)
    params, metrics = (value_columns(found, prefix, MOST_COLUMNS) for prefix in (PARAMS, METRICS))
    urls = [f"{PAGES}/{page_name(run.run_id)}" for run in found]
    css = palette_css() + custom_properties({"font": FONT}) + read_file("base.css") + read_file("site.css", __package__)
    return string.Template(read_file("site.html", __package__)).substitute(
        title="Runs",
        library_css=table_script.with_suffix(".css").read_text(encoding="utf-8"),
        css=css,
        counts=_counts(found),
        notes="".join(f"<p>{escape(note)}</p>" for note in _notes(found, where, [*params, *metrics])),
        plots="\n".join(map(_section, draw_plots(fields, params, metrics, urls))),
        options=_data(json.dumps({**table_options(found, fields, params, metrics, urls), "users": users or {}})),
        library=base64.b64encode(table_script.read_bytes()).decode(),
        table_script=read_file("table.js", __package__),
        compare_script=read_file("compare.js", __package__),
        plots_script=read_file("plots.js", __package__),
    )


def _counts(found: Sequence[RunSummary]) -> str:
    counts = Counter(run.state for run in found)
    texts = [f"<span>{len(found):,} run{'' if len(found) == 1 else 's'}</span>"]
    for status, count in counts.most_common():
        style = status_style(status)
        texts.append(f'<span class="{style.colour}">{style.sign} {count:,} {escape(status)}</span>')
    return "".join(texts)


def _notes(found: Sequence[RunSummary], where: Sequence[Condition], columns: Sequence[Column]) -> List[str]:
    """Return the notes below the table: when it was written, and what it leaves out."""
    now = datetime.now().astimezone()
    notes = [f"Written {now:%Y-%m-%d %H:%M}. Times are in UTC{now.isoformat()[-6:]}."]
    if where:
        notes.insert(0, f"Only runs with {', '.join(' '.join(each) for each in where)}.")
    left_out = sum(len(all_names(found, prefix)) for prefix in (PARAMS, METRICS)) - len(columns)
    if left_out:
        notes.append(f"{left_out:,} parameters and metrics that few runs have are left out.")
    return notes


def _section(plot: Plot) -> str:
    return (
        f'<section class="{plot.id}"><h2>{plot.heading}</h2><p class="note">{CLICK}</p>'
        f'<div class="plot" id="{plot.id}"></div>'
        f'<script type="application/json">{_data(plot.json)}</script></section>'
    )


def _data(text: str) -> str:
    """Return JSON for a script element. No text in it can end the element."""
    return text.replace("<", "\\u003c")
