"""What `trackway up` serves: the flows as deployments, with the schedules of params.yaml.

python -m flows.deployments
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from datetime import timedelta
from threading import Thread
from typing import Any

from filelock import FileLock, Timeout
from prefect import Flow, get_client, serve
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy, StateType
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Schedule
from prefect.states import Crashed
from pydantic import ValidationError
from tenacity import retry, stop_after_delay, wait_fixed

from flows.alive import KILLED, end_dead_runs, tell_crash
from flows.graph import FLOW_LOCK
from flows.notify import remember_addresses
from flows.pipeline import pipeline, retrain
from learn.errors import ParamsError, TrackwayError
from tasks.params import PARAMS_FILE, Params
from tasks.stage import checked_params

SLUG = str(PARAMS_FILE)  # how the names of its schedules begin on Prefect's page
BETWEEN_LOOKS = 10  # seconds
FLOWS: dict[str, Flow[..., Any]] = {"pipeline": pipeline, "retrain": retrain}


def deployments(params: Params) -> list[RunnerDeployment]:
    """One deployment a flow; a second run waits for the first. Raises ParamsError where Prefect refuses a schedule."""
    schedules: dict[str, list[Schedule]] = {name: [] for name in FLOWS}
    problems = []
    for number, entry in enumerate(params.flow.schedules):
        key = f"flow.schedules[{number}]"
        if entry.deployment == "retrain" and entry.parameters["dataset"] not in params.datasets:
            problems.append(
                f"{key}.parameters.dataset is {entry.parameters['dataset']}; "
                f"it must be one of {', '.join(params.datasets)} ({PARAMS_FILE})"
            )
        try:
            if entry.cron:
                CronSchedule(cron=entry.cron, timezone=entry.timezone)
            else:
                IntervalSchedule(interval=timedelta(seconds=entry.interval or 0), timezone=entry.timezone)
        except ValidationError as error:
            for detail in error.errors():
                what = ".".join(map(str, detail["loc"]))
                problems.append(f"{key}.{what} is {detail['input']}; {detail['msg']} ({PARAMS_FILE})")
            continue
        schedules[entry.deployment].append(
            Schedule(
                cron=entry.cron,
                interval=timedelta(seconds=entry.interval) if entry.interval else None,
                timezone=entry.timezone,
                parameters=entry.parameters,
                active=not entry.paused,
                slug=f"{SLUG} {number + 1}: {entry.cron or f'every {entry.interval} s'}",
            )
        )
    if problems:
        raise ParamsError(problems)
    one_at_a_time = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
    return [
        RunnerDeployment.from_flow(flow, name, schedules=schedules[name], concurrency_limit=one_at_a_time)
        for name, flow in FLOWS.items()
    ]


def main() -> None:
    try:
        params = checked_params()
        ready = deployments(params)
    except TrackwayError as error:
        sys.exit(error.as_message())
    remember_addresses(params)
    _wait_for_server()
    end_dead_runs(deployments=True)
    _end_dead_runs()
    _forget_old_schedules(ready)
    Thread(target=_look_for_dead_runs, daemon=True).start()
    serve(*ready, limit=1, pause_on_shutdown=False, print_starting_message=False)


@retry(stop=stop_after_delay(120), wait=wait_fixed(0.5))
def _wait_for_server() -> None:
    """It starts at the same time, and again when it has crashed."""
    with get_client(sync_client=True) as client:
        if problem := client.api_healthcheck():
            raise problem


def _forget_old_schedules(ready: list[RunnerDeployment]) -> None:
    """Those that params.yaml no longer has; what was added on Prefect's page stays."""
    with get_client(sync_client=True) as client:
        for deployment in ready:
            with suppress(ObjectNotFound):
                found = client.read_deployment_by_name(f"{deployment.flow_name}/{deployment.name}")
                kept = {schedule.slug for schedule in deployment.schedules or []}
                for schedule in found.schedules:
                    if schedule.slug and schedule.slug.startswith(SLUG) and schedule.slug not in kept:
                        client.delete_deployment_schedule(found.id, schedule.id)


def _look_for_dead_runs() -> None:
    """Those of `trackway run`; a run of a deployment is watched by the process that serves, with the flow's hooks."""
    while True:
        time.sleep(BETWEEN_LOOKS)
        try:
            end_dead_runs(deployments=False)
        except Exception as error:  # such as a server that is just started again
            print(f"cannot look for flow runs that were killed: {error}", file=sys.stderr)


def _end_dead_runs() -> None:
    """Runs of deployments that were killed before their flow began, with the process that serves.

    A flow that lives holds the lock of this folder.
    """
    try:
        with FileLock(FLOW_LOCK, timeout=0), get_client(sync_client=True) as client:
            states = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
            for run in client.read_flow_runs(
                deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=list(FLOWS))),
                flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states))),
            ):
                client.set_flow_run_state(run.id, Crashed(message=KILLED), force=True)
                tell_crash(run)
    except Timeout:
        return


if __name__ == "__main__":
    main()
