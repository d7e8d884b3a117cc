"""Serves the flows as Prefect deployments, with the schedules of params.yaml; `trackway up` starts it.

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

SLUG = str(PARAMS_FILE)  # beginning of the slugs of schedules from params.yaml, unlike those added on Prefect's page
POLL_SECONDS = 10  # seconds between two searches for flow runs that were killed
FLOWS: dict[str, Flow[..., Any]] = {"pipeline": pipeline, "retrain": retrain}


def deployments(params: Params) -> list[RunnerDeployment]:
    """Returns one deployment for each flow; a second run of a deployment waits for the first.

    Raises:
        ParamsError: Prefect refuses a schedule, or a schedule names an unknown dataset.
    """
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
    """Serves the deployments until the process is ended."""
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
    """Waits until Prefect's server answers; it starts at the same time as this process, and again after a crash."""
    with get_client(sync_client=True) as client:
        if problem := client.api_healthcheck():
            raise problem


def _forget_old_schedules(ready: list[RunnerDeployment]) -> None:
    """Deletes the schedules that params.yaml no longer has; schedules added on Prefect's page stay."""
    with get_client(sync_client=True) as client:
        for deployment in ready:
            with suppress(ObjectNotFound):
                found = client.read_deployment_by_name(f"{deployment.flow_name}/{deployment.name}")
                kept = {schedule.slug for schedule in deployment.schedules or []}
                for schedule in found.schedules:
                    if schedule.slug and schedule.slug.startswith(SLUG) and schedule.slug not in kept:
                        client.delete_deployment_schedule(found.id, schedule.id)


def _look_for_dead_runs() -> None:
    """Looks for killed runs of `trackway run`, for ever; Prefect itself watches the runs of deployments."""
    while True:
        time.sleep(POLL_SECONDS)
        try:
            end_dead_runs(deployments=False)
        except Exception as error:  # for example while the server is started again
            print(f"cannot look for flow runs that were killed: {error}", file=sys.stderr)


def _end_dead_runs() -> None:
    """Marks as Crashed the runs of deployments that were killed, with the serving process, before their flow began.

    Does nothing while a flow holds the lock of this folder.
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
