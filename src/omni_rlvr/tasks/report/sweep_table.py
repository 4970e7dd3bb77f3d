"""Write the table at the end of a sweep: a row a setting, on the terminal and as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from omni_rlvr.tasks.report.columns import differing, in_order, settings_of
from omni_rlvr.tasks.report.frames import printed, runs_table, settings_table, write_table
from omni_rlvr.tasks.report.gather import Complete, check_labels, gather, runs_below
from omni_rlvr.tasks.report.text_tables import plain_table


def write_sweep_table(home: Path, folders: Sequence[Path], complete: Complete) -> None:
    """Put runs into one table: sweep.* with a row a setting, sweep_runs.* with a row a run.

    Runs that neither train nor are evaluated have no row; there is no table if none has one.

    Raises:
        UserError: their scores are over different label lists.
    """
    places = [str(folder) for folder in folders if next(runs_below(folder), None) is not None]
    if not places:
        return
    runs = in_order(gather(places, complete))
    check_labels(runs)
    write_table(runs_table(runs, *differing(runs)), home / "sweep_runs")
    counted = settings_of(runs)
    keys, values = differing(counted)
    settings = settings_table(runs_table(counted, keys, values), keys)
    files = write_table(settings, home / "sweep")
    Console().print(plain_table(*printed(settings)))
    print(f"table: {files[2]}; figures and tests: omni-rlvr task=report runs={home}")
