"""What `trackway compare` does: names become reports, and reports a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flows.reports.comparison.gather import gather
from flows.reports.comparison.last import changes_of
from flows.reports.comparison.records import Report
from flows.reports.results import results
from learn.errors import DataError, ParamsError, did_you_mean
from tasks.params import Params

PAGES = (".html", ".htm", ".md")


def collected(params: Params, targets: list[str], *, details: bool) -> tuple[list[Report], str]:
    """Returns a report for each dataset that the targets name, and why they lack what MLflow knows.

    Args:
        params: The parameters.
        targets: Names of datasets and experiments; none for everything.
        details: Whether to collect what only figures show.

    Raises:
        ParamsError: A target is neither a dataset nor an experiment.
        DataError: None of the experiments has been evaluated.
    """
    names = chosen(params, targets)
    rows, why = results(params)
    reports = []
    for dataset, experiments in names.items():
        since = changes_of(params, dataset, rows, ask=details and not why)
        reports.append(gather(params, dataset, experiments, rows, details=details, changes=since))
    if not any(report.entries for report in reports):
        asked = ", ".join(name for experiments in names.values() for name in experiments)
        raise DataError(f"none of {asked} has been evaluated; next: dvc repro, or trackway run")
    return reports, why


def chosen(params: Params, targets: list[str]) -> dict[str, list[str]]:
    """Returns dataset → names of those of its experiments that are compared, in the order of params.yaml.

    Args:
        params: The parameters.
        targets: Names of datasets and experiments; `datasets.NAME` and `experiments.NAME` if a name is both.

    Raises:
        ParamsError: A target is neither a dataset nor an experiment, or it is both.
    """
    wanted: set[str] = set() if targets else set(params.experiments)
    for target in targets:
        section, _, name = target.rpartition(".")
        found = [s for s in ("datasets", "experiments") if name in getattr(params, s) and section in ("", s)]
        if len(found) > 1:
            raise ParamsError([f"{name} is an experiment and a dataset; say experiments.{name} or datasets.{name}"])
        if not found:
            known = [*params.datasets, *params.experiments]
            raise ParamsError(
                [
                    f"{target} is neither a dataset nor an experiment; there are {', '.join(known)}"
                    f"{did_you_mean(name, known)}"
                ]
            )
        wanted |= {name} if found == ["experiments"] else set(params.experiments_of(name))
    shown = {
        dataset: [name for name in params.experiments_of(dataset) if name in wanted] for dataset in params.datasets
    }
    return {dataset: names for dataset, names in shown.items() if names}


def content_of(file: Path) -> Callable[[list[Report]], bytes]:
    """Returns the function that turns reports into a file's content.

    Raises:
        DataError: The file's name does not end like that of a page.
    """
    if file.suffix.lower() not in PAGES:
        raise DataError(f"--out is {file}; its name must end in .html or .md")
    if file.suffix.lower() == ".md":
        from flows.reports.comparison.markdown import markdown

        return lambda reports: markdown(reports).encode()
    from flows.reports.comparison.page import page

    return page
