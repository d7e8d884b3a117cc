"""Several at work in one folder at once: each ends well or is refused, and nothing is done twice or lost."""

from __future__ import annotations

from random import Random

from tests.support.project import Project, wait_until
from tests.torture.common import PATIENCE, Command, Ground, Lost, Scenario, rerun_as_undisturbed, start, tail
from tests.torture.kills import BETTER, FLOW, REPRO, wait

EPOCHS = "experiments.digits-mlp.epochs"
REFUSED = ("Unable to acquire lock", "is busy, it is being blocked by")  # DVC's words to the second


def two_repros(ground: Ground, random: Random) -> None:
    at_once(ground, random, REPRO, REPRO)


def two_flows(ground: Ground, random: Random) -> None:
    at_once(ground, random, FLOW, FLOW)


def a_flow_and_a_repro(ground: Ground, random: Random) -> None:
    at_once(ground, random, *random.choice([(FLOW, REPRO), (REPRO, FLOW)]))


def at_once(ground: Ground, random: Random, first: tuple[str, ...], second: tuple[str, ...]) -> None:
    work = ground.changed("digits", BETTER, *first)
    project = ground.copy(work.start)
    delay = random.uniform(0, work.seconds / 2)
    print(f"{' '.join(second[-2:])} {delay:.2f} s after {' '.join(first[-2:])}", end=" ", flush=True)
    commands = [start(project, first)]
    wait(commands[0], delay)
    commands.append(start(project, second))
    evidence = "\n".join(f"one of two said:\n{tail(command.log)}" for command in commands if not ended_well(command))
    if evidence:
        raise Lost(evidence)
    try:
        rerun_as_undisturbed(project, work)
    except Lost as lost:
        said = [f"one of two said:\n{tail(command.log)}" for command in commands]
        raise Lost("\n".join([str(lost), *said])) from None


def ended_well(command: Command) -> bool:
    return command.end() == 0 or ("Traceback" not in command.log and any(words in command.log for words in REFUSED))


def two_queued_experiments(ground: Ground, random: Random) -> None:
    """Each in a folder of its own; both reach the project's MLflow."""
    work = ground.changed("digits", BETTER, *REPRO)
    project = ground.copy(work.start)
    target = REPRO[-1]
    for epochs in (40, 2):  # the undisturbed one, and one that is worse than the champion
        project.run("dvc", "exp", "run", "--queue", "--name", f"of-{epochs}", "-S", f"{EPOCHS}={epochs}", target)
    project.run("dvc", "queue", "start", "--jobs", "2")
    try:
        wait_until(lambda: queued(project) <= {"Success", "Failed"}, PATIENCE)
    except AssertionError:
        raise Lost(f"the queue does not end:\n{tail(project.run('dvc', 'queue', 'status').stdout)}") from None
    if "Failed" in queued(project):
        logs = [project.run("dvc", "queue", "logs", f"of-{epochs}", check=False).stdout for epochs in (40, 2)]
        raise Lost("\n".join(f"a queued experiment said:\n{tail(log)}" for log in logs))
    project.run("dvc", "exp", "apply", "of-40")
    rerun_as_undisturbed(project, work, other_trainings=1)


def queued(project: Project) -> set[str]:
    """The states of the queued experiments: the last column of the table."""
    lines = project.run("dvc", "queue", "status").stdout.splitlines()
    return {line.split()[-1] for line in lines if "of-" in line}


SCENARIOS = [
    Scenario("two dvc repro at once", 3, two_repros),
    Scenario("two flows at once", 3, two_flows),
    Scenario("a flow and a dvc repro at once", 4, a_flow_and_a_repro),
    Scenario("two queued experiments at once", 2, two_queued_experiments),
]
