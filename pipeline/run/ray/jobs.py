"""Submission as a Ray job: through Ray's own Jobs API, with the code packed and credentials by reference only."""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from pipeline.core.errors import SightlineError, UserError

POLL_SECONDS = 1.0
DONE = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One job: what it runs, under which id, with which code (folders of Python packages; none: those of the image)."""

    id: str
    entrypoint: str
    packages: Sequence[Path] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class JobState:
    """What a cluster says of a job."""

    id: str
    status: str
    message: str
    exit_code: int | None

    @property
    def done(self) -> bool:
        """Whether it has ended, one way or another."""
        return self.status in {status.value for status in DONE}


_SUPERVISORS_PYTHON = (
    r"root=$(sed -n 's|^.* \(/.*\)/lib/python[^/]*/[^/]*-packages/ray/_raylet\.so$|\1|p' /proc/$PPID/maps 2>/dev/null"
    r' | head -n 1); python="$root/bin/python"; { [ -n "$root" ] && [ -x "$python" ]; } || python=python; '
)
"""Sets $python. A job's command is a child of Ray's supervisor of the job, a Python process: the environment that its
Ray library lies in is the one that the job is to run in. The PATH may lead to another Python, as it does where the head
was started by the full path of its `ray`. Where the supervisor cannot be looked into, the PATH decides."""


def entrypoint(arguments: Sequence[str]) -> str:
    """Return the shell command that runs Python with these arguments in the environment of the job."""
    return f'{_SUPERVISORS_PYTHON}exec "$python" {shlex.join(arguments)}'


class Jobs:
    """The jobs of one cluster."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._client = self._ask(lambda: JobSubmissionClient(address))

    def find(self, submission_id: str) -> JobState | None:
        """Return a job's state, or None when the cluster knows no such job."""
        for job in self._ask(self._client.list_jobs):
            if job.submission_id == submission_id:
                return _state(submission_id, job)
        return None

    def submit(self, submission: Submission) -> JobState:
        """Start a job under its id; one that is there already under this id is returned as it is."""
        known = self.find(submission.id)
        if known is not None:
            return known
        runtime: dict[str, Any] = {"env_vars": dict(submission.environment)}
        if submission.packages:
            runtime["py_modules"] = [str(folder) for folder in submission.packages]
            runtime["excludes"] = ["__pycache__"]
        self._ask(
            lambda: self._client.submit_job(
                entrypoint=submission.entrypoint, submission_id=submission.id, runtime_env=runtime
            )
        )
        state = self.find(submission.id)
        assert state is not None, "a job that was accepted is listed"
        return state

    def require(self, submission_id: str) -> JobState:
        """Return a job's state; a UserError when there is none of that id."""
        state = self.find(submission_id)
        if state is None:
            raise UserError(f"job {submission_id}", f"is not known to {self._address}", "check the id")
        return state

    def logs(self, submission_id: str) -> str:
        """Return what a job has written so far."""
        return str(self._ask(lambda: self._client.get_job_logs(submission_id)))

    def follow(self, submission_id: str) -> Iterator[str]:
        """Yield what a job writes, as it comes, until it ends."""
        lines = self._client.tail_job_logs(submission_id)
        loop = asyncio.new_event_loop()
        try:
            while True:
                try:
                    yield str(loop.run_until_complete(anext(lines)))
                except StopAsyncIteration:
                    return
        finally:
            loop.close()

    def wait(self, submission_id: str) -> JobState:
        """Return when a job has ended."""
        while not (state := self.require(submission_id)).done:
            time.sleep(POLL_SECONDS)
        return state

    def stop(self, submission_id: str) -> JobState:
        """Stop a job; the last snapshot stays served, and the next submission goes on with what is missing."""
        self.require(submission_id)
        self._ask(lambda: self._client.stop_job(submission_id))
        return self.wait(submission_id)

    def _ask(self, request: Any) -> Any:
        """Make a request; what goes wrong is one line."""
        try:
            return request()
        except ConnectionError:
            raise UserError(
                f"--address {self._address}", "cannot be reached", "is the head running, and its port open to here?"
            ) from None
        except AuthenticationError:
            raise UserError(
                f"--address {self._address}",
                "refuses the token, or wants one",
                "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN) as on the cluster",
            ) from None
        except RuntimeError as error:
            raise SightlineError(f"{self._address}: {' '.join(str(error).split())[:300]}") from None


def _state(submission_id: str, job: Any) -> JobState:
    return JobState(
        id=submission_id, status=str(job.status.value), message=str(job.message or ""), exit_code=job.driver_exit_code
    )
