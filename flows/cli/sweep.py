"""The command that searches for better settings of an experiment."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.app import app, console, in_project
from learn.errors import SweepError
from tasks.params import PARAMS_FILE, Params, read_yaml

if TYPE_CHECKING:
    from tasks.sweep.study import Identity, Result, Sweep

TRIALS = 30  # number of trials if spaces are given and --trials is not


@app.command()
def sweep(
    experiment: Annotated[str, typer.Argument(help="the experiment")],
    spaces: Annotated[
        list[str] | None,
        typer.Option(
            "-S",
            metavar="KEY=SPACE",
            help="a key below the experiment and its space: [a, b], uniform(a,b), loguniform(a,b), int(a,b), "
            "logint(a,b); by default those of the last sweep",
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(help=f"how many in all; {TRIALS} with -S, else 0: only the table is shown", min=0)
    ] = None,
    workers: Annotated[int, typer.Option(help="trials at a time, each in a process of its own", min=1)] = 1,
    prune: Annotated[bool, typer.Option("--prune", help="stop trials early that are worse than the median")] = False,
    seed: Annotated[int | None, typer.Option(help="of the search; 0 with -S, else the last sweep's", min=0)] = None,
    apply: Annotated[bool, typer.Option("--apply", help="write the best trial's values into params.yaml")] = False,
) -> None:
    """Search for better settings of an experiment with Optuna; the same command again goes on where it stopped."""
    in_project()
    asked = Asked(experiment, spaces or [], TRIALS if spaces and trials is None else trials or 0, workers, prune, seed)
    try:
        found = _run(asked) if asked.trials else _last(asked)
    except KeyboardInterrupt:
        print("stopped; the trials that have ended are kept, and the same command goes on", file=sys.stderr)
        raise typer.Exit(130) from None
    _show(found, apply)


@dataclass(frozen=True)
class Asked:
    """What the command line asks for."""

    experiment: str
    spaces: list[str]
    trials: int
    workers: int
    prune: bool
    seed: int | None


def _last(asked: Asked) -> Sweep:
    """Returns the last sweep of an experiment, to be shown."""
    from tasks.params import load_params
    from tasks.sweep.storage import last_identity, open_sweep

    load_params().experiment(asked.experiment)
    if asked.spaces:
        raise SweepError("-S without trials runs nothing; give --trials, or leave -S out to see the last sweep")
    if not (identity := last_identity(asked.experiment)):
        raise SweepError(_none_yet(asked.experiment))
    return open_sweep(identity)


def _none_yet(experiment: str) -> str:
    from tasks.sweep.space import EXAMPLE

    return f"there is no sweep of {experiment} yet; next: trackway sweep {experiment} -S {EXAMPLE} --trials {TRIALS}"


def _run(asked: Asked) -> Sweep:
    """Runs the trials that are missing."""
    from tasks.stage import checked_params
    from tasks.sweep.storage import alone, last_identity, open_sweep

    params = checked_params()
    params.experiment(asked.experiment)
    with alone(asked.experiment):
        before = last_identity(asked.experiment)
        identity, settings = _identify(asked, params, before)
        found = open_sweep(identity)
        _tell_what_is_there(found, asked, before)
        _search(asked, params, found, settings)
    return found


def _identify(asked: Asked, params: Params, before: Identity | None) -> tuple[Identity, dict[str, Any]]:
    """Checks the spaces and the data, and returns what the trials have in common, and the experiment with one seed.

    Raises:
        ParamsError: A space is wrong, or does not fit the experiment.
        SweepError: No space is given, or the data is not up to date.
    """
    from tasks.sweep.check import check_space
    from tasks.sweep.space import parse, with_one_seed, without
    from tasks.sweep.study import Identity
    from tasks.sweep.trial import data_of

    name = asked.experiment
    texts = asked.spaces or [f"{key}={text}" for key, text in (before.space if before else {}).items()]
    if not texts:
        raise SweepError(_none_yet(name))
    space = parse(texts)
    data = read_yaml(PARAMS_FILE)
    settings = with_one_seed(data["experiments"][name])
    print("loading PyTorch, DVC and Optuna")
    check_space(data, name, settings, space)
    dataset = params.experiment(name).dataset
    seed = before.seed if before and asked.seed is None and not asked.spaces else asked.seed or 0
    identity = Identity(
        experiment=name,
        space={each.key: each.text for each in space},
        seed=seed,
        metric=params.dataset(dataset).champion.metric,
        versions=_versions(params, name, dataset),  # before the data is read, for it says if that is missing
        part=data_of(dataset)[0],
        settings=without(settings, [each.key for each in space]),
        device=params.device,
        threads=params.threads,
    )
    return identity, settings


def _versions(params: Params, experiment: str, dataset: str) -> dict[str, str]:
    """Returns the md5 of the data and code that a training reads, and the split's settings, which draw a fraction.

    Raises:
        SweepError: The data is not up to date.
    """
    from flows.graph import Graph

    graph = Graph(Path.cwd())
    stages = [f"{kind}@{dataset}" for kind in ("download", "split", "transform")]
    if changed := graph.changed(stages):
        stale = ", ".join(stage for stage in stages if stage in changed)
        raise SweepError(f"{stale} must run first; next: dvc repro transform@{dataset}")
    return graph.versions(f"train@{experiment}") | {"split": params.dataset(dataset).split.model_dump_json()}


def _tell_what_is_there(found: Sweep, asked: Asked, before: Identity | None) -> None:
    """Prints which trials are kept, why a new sweep begins, and what chooses between trials."""
    from tasks.sweep.storage import database

    identity, name = found.identity, asked.experiment
    if left := found.interrupt():
        print(f"sweep {name}: {left} {'trial was' if left == 1 else 'trials were'} stopped, and will run again")
    done, total = len(found.results()), _total(found, asked)
    if done:
        print(f"sweep {name}: {done} trials have ended before; {max(0, total - done)} to go")
        if done >= asked.trials and done != found.size:
            print(f"more of them: --trials {done + TRIALS}")
    elif before and (changes := identity.changes(before)):
        print(
            f"sweep {name}: a new one begins, for {' and '.join(changes)} changed; {database(name)} keeps the old one"
        )
    if total < asked.trials:
        print(f"sweep {name}: there are only {total} combinations")
    if identity.part == "test":
        print(
            f"sweep {name}: warning: without a validation part the test part chooses the best trial, whose "
            f"{identity.metric} on it is then too good; datasets.NAME.split.validation: 0.1 gives it one"
        )


def _total(found: Sweep, asked: Asked) -> int:
    """Returns how many trials there will be in all."""
    return min(asked.trials, found.size or asked.trials)


def _search(asked: Asked, params: Params, found: Sweep, settings: dict[str, Any]) -> None:
    """Runs the trials with a progress bar, and writes them to MLflow."""
    from tqdm import tqdm

    from flows.reports.sweeps import as_words, measured
    from tasks.sweep.record import Recorder, best_first
    from tasks.sweep.search import search
    from tasks.sweep.trial import data_of
    from tasks.tracking.names import store_in

    dataset = params.experiment(asked.experiment).dataset
    if asked.prune:
        found.prune(settings["epochs"])
    recorder = Recorder(store_in(params), found, dataset, data_of(dataset)[1])
    done, name = len(found.results()), asked.experiment
    bar = tqdm(total=max(_total(found, asked), done), initial=done, desc=f"sweep {name}", unit="trial", disable=None)

    def ended(result: Result) -> None:
        recorder.add(result)
        if best := best_first(found, found.results()):
            bar.set_postfix_str(f"best {measured(found, best[0])}, trial {best[0].number}", refresh=False)
        bar.update()
        if bar.disable:
            line = f"sweep {name}: trial {result.number}, {as_words(result.values)}: {measured(found, result)}"
            print(line, flush=True)

    status = "KILLED"
    try:
        with bar:
            search(found, settings, asked.trials, asked.workers, asked.prune, ended)
        status = "FINISHED"
    finally:
        recorder.finish(status)


def _show(found: Sweep, apply: bool) -> None:
    """Prints the table of the best trials, and what to do next, or does it."""
    from flows.reports.sweeps import as_words, table
    from tasks.sweep.record import best_first
    from tasks.sweep.trial import FAILED

    name, results = found.identity.experiment, found.results()
    best = best_first(found, results)
    if not best:
        last = next((result.outcome for result in reversed(results) if result.outcome.why), None)
        why = f"; the last {last.ended}: {last.why}" if last else ""
        raise SweepError(f"no trial of {name} is complete{why}; next: other spaces, or more --trials")
    console.print(table(found, results))
    if failed := [result.outcome for result in results if result.outcome.ended == FAILED]:
        count = "one trial" if len(failed) == 1 else f"{len(failed)} trials"
        print(f"{count} failed; the last: {failed[-1].why}")
    if apply:
        _apply(found, best[0])
    else:
        values = as_words(best[0].values)
        print(f"next: trackway sweep {name} --apply (trial {best[0].number}: {values}), then dvc repro")


def _apply(found: Sweep, best: Result) -> None:
    """Writes a trial's values into params.yaml."""
    from flows.edits.values import set_values
    from flows.reports.sweeps import as_words
    from tasks.sweep.space import with_one_seed, without

    identity = found.identity
    settings = with_one_seed(read_yaml(PARAMS_FILE)["experiments"][identity.experiment])
    changed = set_values(PARAMS_FILE, identity.experiment, best.values)
    print(f"{'written to' if changed else 'already in'} {PARAMS_FILE}: {as_words(best.values)}")
    if without(settings, list(identity.space)) != identity.settings:
        print(f"experiments.{identity.experiment} has other settings now than in these trials; it may not be as good")
    print("next: dvc repro")
