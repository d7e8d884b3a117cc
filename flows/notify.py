"""Telling people: a failed flow, a new champion; in the log, and at the addresses in params.yaml."""

from __future__ import annotations

import os

import apprise
from prefect.logging import get_run_logger

from learn.params import load_params


def notify(title: str, text: str) -> None:
    """Sends to every address of `flow.notify`; one that cannot be reached is named in the log, and nothing else."""
    log = get_run_logger()
    log.info(f"{title}: {text}")
    for number, address in enumerate(load_params().flow.notify):
        target = _target(os.path.expandvars(address))
        if target is None:
            log.warning(f"flow.notify[{number}] in params.yaml is no address that Apprise or a webhook knows")
        elif not target.notify(body=text, title=f"Trackway: {title}"):
            log.warning(f"flow.notify[{number}] in params.yaml ({target.url(privacy=True)}) could not be told")


def _target(address: str) -> apprise.NotifyBase | None:
    """An Apprise address as it is (slack://..., mailto://...); any other http(s) address gets the text as JSON."""
    found = apprise.Apprise.instantiate(address)
    return found or apprise.Apprise.instantiate(address.replace("http", "json", 1))
