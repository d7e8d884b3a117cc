"""Notifies people of failed flows and of decisions about new models, in the log and at the addresses in params.yaml."""

from __future__ import annotations

import json
import logging
import os
from logging import Logger, LoggerAdapter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import apprise
import requests

from learn.errors import TrackwayError
from tasks.params import Params, load_params
from tasks.workspace.files import write_atomically

KNOWN = Path(".dvc/tmp/notify.json")  # the addresses when params.yaml last had no mistakes
SECONDS = 10  # time that a webhook has to answer

Log = Logger | LoggerAdapter[Any]


def remember_addresses(params: Params) -> None:
    """Keeps the addresses in params.yaml for failures while the file cannot be read."""
    write_atomically(KNOWN, json.dumps(params.flow.notify).encode())


def notify(title: str, text: str, log: Log) -> None:
    """Sends a message to every address of `flow.notify`, and writes it to the log.

    An address that cannot be reached raises nothing; the log names it without path and query, which may hold tokens.
    """
    log.info(f"{title}: {text}")
    for number, address in enumerate(_addresses(log)):
        if problem := _tell(os.path.expandvars(address), title, text):
            log.warning(f"flow.notify[{number}] in params.yaml {problem}")


def _addresses(log: Log) -> list[str]:
    try:
        return load_params().flow.notify
    except TrackwayError as error:
        log.warning(f"params.yaml cannot be read; told are the addresses that it had before. {error.as_message()}")
        return json.loads(KNOWN.read_bytes()) if KNOWN.is_file() else []


def _tell(address: str, title: str, text: str) -> str | None:
    """Sends to an Apprise address (slack://..., mailto://...), or JSON to another http(s) address.

    Returns:
        What failed, for the log; None if nothing did.
    """
    logging.getLogger("apprise").disabled = True  # apprise logs whole addresses
    message = {"title": f"Trackway: {title}", "message": text, "type": "info"}
    if target := apprise.Apprise.instantiate(address):
        sent = target.notify(title=message["title"], body=text)
        return None if sent else f"({target.service_name}) could not be told"
    try:
        shown = urlsplit(address)
        if shown.scheme not in ("http", "https") or not shown.hostname:
            return "is no address that Apprise or a webhook knows"
        answer = requests.post(address, json=message, timeout=SECONDS)
        problem = None if answer.ok else f"status {answer.status_code}"
    except (requests.RequestException, ValueError) as error:  # the error's text has the whole address
        problem = type(error).__name__
    return problem and f"({shown.scheme}://{shown.hostname}) could not be told: {problem}"
