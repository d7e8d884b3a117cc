"""How numbers of a comparison are written, and the sentences that every form of it says."""

from __future__ import annotations

from collections.abc import Sequence

from flows.reports.comparison.records import Changes, Entry, Measured, Report
from learn.evaluation.metrics import METRICS

DASH = "–"
MOST_NAMED = 5  # experiments in a sentence
FEW_SEEDS = 4  # of two models together: at most two degrees of freedom, Student's factor is 4.3 or more
MOST_CHANGES = 20  # that are listed of each kind


def number(metric: str, value: float) -> str:
    """Returns a metric as text: accuracy in percent, others with four digits."""
    return f"{value:.2%}" if metric == "accuracy" else f"{value:.4g}"


def between(metric: str, interval: tuple[float, float]) -> str:
    """Returns an interval as text."""
    if metric == "accuracy":
        return " to ".join(f"{end:.1%}" for end in interval)
    return " to ".join(f"{end:.3g}" for end in interval)


def spread(metric: str, measured: Measured, seeds: int) -> str:
    """Returns what is known of how sure a metric is: its interval, and how it differs between seeds."""
    said = [between(metric, measured.interval)] if measured.interval else []
    if seeds > 1 and measured.sd is not None:
        sd = f"{measured.sd:.2%}" if metric == "accuracy" else f"{measured.sd:.2g}"
        said.append(f"±{sd} over {seeds} seeds")
    return ", ".join(said)


def apart(metric: str, value: float) -> str:
    """Returns a difference as text: of accuracy in points, of others in the metric's unit."""
    text = f"{100 * value:+.1f} points" if metric == "accuracy" else f"{value:+.3g}"
    return text.replace("-", "−")


def apart_between(metric: str, interval: tuple[float, float]) -> str:
    """Returns the interval of a difference as text."""
    ends = [f"{100 * end:+.1f}" if metric == "accuracy" else f"{end:+.2g}" for end in interval]
    return " to ".join(ends).replace("-", "−")


def p_value(p: float) -> str:
    """Returns a p-value as text."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def basis(report: Report) -> str:
    """Returns the sentence that says which split and which metric decide."""
    better = METRICS[report.metric].better
    if report.part == "test":
        return (
            f"The test part ({report.samples['test']:,} samples) decides by {report.metric} ({better} is better), for "
            "there is no validation part. The best of several results there is too good for unseen data."
        )
    return (
        f"The validation part ({report.samples['validation']:,} samples) decides by {report.metric} ({better} is "
        f"better); the test part ({report.samples['test']:,} samples) is only reported."
    )


def cost(report: Report, efficient: Sequence[Entry]) -> str:
    """Returns the sentence that names the models than which no other is both better and faster."""
    *most, last = [entry.name for entry in efficient[-MOST_NAMED:]]
    if not most:
        return f"{last} is both the fastest and the best in {report.part} {report.metric}."
    return f"No other model is both faster and better than {', '.join(most)} or {last}."


def leader(report: Report) -> str:
    """Returns the sentence that names the best experiment."""
    if not report.entries:
        return "No experiment is evaluated yet."
    best = report.entries[0]
    measured = best.measured[report.part].get(report.metric)
    if measured is None:
        return f"{report.part} {report.metric}, which decides, is not measured yet; next: dvc repro."
    value = number(report.metric, measured.value)
    sure = f" ({between(report.metric, measured.interval)})" if measured.interval else ""
    return f"{best.name} has the best {report.part} {report.metric}: {value}{sure}."


def others(report: Report) -> str:
    """Returns the sentences that say which experiments cannot be told from the best one; "" if it is the only one."""
    rest, said = report.entries[1:], []
    if rest and METRICS[report.metric].score is None:
        why = f"since {report.metric} is not computed from predictions"
        return f"The others cannot be compared with it on the same samples, {why}."
    compared = [(entry.name, entry.difference) for entry in rest if entry.difference]
    alike = [f"{name} ({p_value(each.p)})" for name, each in compared if not each.is_separable]
    if alike:
        more = f" and {len(alike) - MOST_NAMED} more" if len(alike) > MOST_NAMED else ""
        said.append(f"Not separable from it: {', '.join(alike[:MOST_NAMED])}{more}.")
    elif compared:
        several = "The others" if len(compared) == len(rest) else "Those compared with it"
        worse = f"{compared[0][0]} is" if len(compared) == 1 else f"{several} are"
        said.append(f"{worse} worse by more than chance explains.")
    if len(compared) < len(rest):
        said.append(f"Not compared with it: {len(rest) - len(compared)} of {len(rest)}.")
    return " ".join(said)


def decisions(report: Report) -> list[str]:
    """Returns what the gate said of the champion and of the challenger, as far as MLflow knows them."""
    said = [(entry.role, entry.decision) for entry in report.entries if entry.decision]
    return [f"{role.capitalize()}: {text}." for role, text in sorted(said)]


def compared_how(report: Report) -> str:
    """Returns the sentence that says how experiments are compared with the best one; "" if none is."""
    compared = sum(entry.difference is not None for entry in report.entries)
    if not compared:
        return ""
    test = _test_of(report)
    several = ", corrected for being several (Holm)" if compared > 1 else ""
    return (
        f"Differences are taken on the same samples of the {report.part} part; p-values are those of {test}{several}, "
        f"and a difference with p > {report.level:g} may be chance.{_few_seeds(report)}"
    )


def _test_of(report: Report) -> str:
    """Returns the name of the test or tests: with several seeds it is another one."""
    best = report.entries[0].seeds
    several = {best > 1 or entry.seeds > 1 for entry in report.entries if entry.difference}
    single = "McNemar's exact test" if report.metric == "accuracy" else "a randomization test"
    names = {False: single, True: "Obuchowski and Rockette's estimate for several seeds"}
    return " and of ".join(names[each] for each in sorted(several))


def _few_seeds(report: Report) -> str:
    """Returns the sentence that explains the widest intervals: those of which the spread of seeds is hardly known."""
    best = report.entries[0].seeds
    together = [best + entry.seeds for entry in report.entries if entry.difference]
    if not any(2 < seeds <= FEW_SEEDS for seeds in together):
        return ""
    return (
        f" Two models that have at most {FEW_SEEDS} seeds together say little about the spread between seeds, so their "
        "interval is wide; more seeds make it narrow."
    )


def changed(changes: Changes) -> str:
    """Returns the sentence that says how much changed since the report before."""
    if changes.is_first:
        return "This is the first report; there is none to compare it with."
    kinds = {"commit": changes.commits, "change of data": changes.data, "change of parameters": changes.parameters}
    counts = [f"{len(items)} {_plural(kind, len(items))}" for kind, items in kinds.items() if items]
    commit = f" (commit {changes.since})" if changes.since else ""
    unknown = "" if changes.commits_known else " Git does not have that commit here."
    if not counts:
        what = "git, " if changes.commits_known else ""
        return f"Since the previous report{commit}, nothing changed in {what}the data or the parameters.{unknown}"
    return f"Since the previous report{commit}: {', '.join(counts)}.{unknown}"


def _plural(kind: str, number: int) -> str:
    first, *rest = kind.split(" ", 1)
    return kind if number == 1 else " ".join([f"{first}s", *rest])


def changed_lists(changes: Changes) -> list[tuple[str, list[str]]]:
    """Returns a title and what is listed below it, for each kind of change that there is."""
    kinds = (("Commits", changes.commits), ("Data", changes.data), ("Parameters", changes.parameters))
    return [(title, _cut(items)) for title, items in kinds if items]


def _cut(items: tuple[str, ...]) -> list[str]:
    more = len(items) - MOST_CHANGES
    return [*items[:MOST_CHANGES], *([f"and {more} more"] if more > 0 else [])]
