"""Publishes a flow's results, outputs to DVC's remote and dvc.lock with git, if its disk is lost as in a container.

trackway run --publish main
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from prefect import get_run_logger, runtime

from flows.graph import Graph
from flows.stores import unshared
from learn.errors import ParamsError, ServerError
from tasks.params import Params
from tasks.tracking.address import redacted

LOCK = "dvc.lock"
AUTHOR = ("-c", "user.name=Trackway", "-c", "user.email=trackway@localhost")


def check_publishable(params: Params, graph: Graph, branch: str) -> None:
    """Checks before a run that its results can be published.

    Raises:
        ParamsError: Some results would be lost with this disk, or the branch would get more than dvc.lock, or a
            dvc.lock made by settings and code that the branch does not have.
        ServerError: git cannot reach `origin`.
    """
    when = "with --publish (publish of the deployment)"
    problems = unshared(params, graph, when, "to publish to")
    if not Path(".git").exists():
        problems.append(f"{LOCK} is published with git, and this folder is no git clone")
    if not problems:
        if changed := _run("git", "status", "--porcelain", "--untracked-files=no", "--", ".", f":(exclude){LOCK}"):
            files = ", ".join(line.split(maxsplit=1)[1] for line in changed.splitlines())
            problems.append(f"not committed: {files}; {LOCK} would be published without it: commit and push it first")
        elif _run("git", "ls-remote", "origin", f"refs/heads/{branch}"):
            _run("git", "fetch", "--quiet", "origin", branch)
            inside = ["git", "merge-base", "--is-ancestor", "HEAD", "FETCH_HEAD"]
            if subprocess.run(inside, capture_output=True, check=False).returncode:
                problems.append(
                    f"the last commit here is not in {branch} of git's origin, and would be published with {LOCK}; "
                    f"push it first: git push origin HEAD:{branch}"
                )
    if problems:
        raise ParamsError(problems)


def publish_results(branch: str) -> None:
    """Pushes outputs to DVC's remote, then a commit with only dvc.lock to a branch of git's `origin`.

    Raises:
        ServerError: git or DVC failed; the text has what it said.
    """
    _run(sys.executable, "-m", "dvc", "push")
    _run("git", "add", LOCK)
    if _run("git", "status", "--porcelain", LOCK):
        _run("git", *AUTHOR, "commit", "--quiet", "--message", f"Results of the flow run {runtime.flow_run.name}", LOCK)
    push = ("git", "push", "--quiet", "origin", f"HEAD:refs/heads/{branch}")
    try:
        _run(*push)
    except ServerError:  # another process may have pushed meanwhile
        try:
            _run("git", *AUTHOR, "pull", "--quiet", "--rebase", "origin", branch)
        except ServerError:
            subprocess.run(["git", "rebase", "--abort"], capture_output=True, check=False)
            raise
        _run(*push)
    get_run_logger().info(f"published: the outputs in DVC's remote, {LOCK} in the branch {branch}")


def _run(*command: str) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode:
        what = " ".join(["dvc", *command[3:]] if command[0] == sys.executable else command)
        raise ServerError(f"the results could not be published; {what} said: {redacted(done.stderr.strip())}")
    return done.stdout.strip()
