"""Errors of the place by class, at every operation on the source and on ROOT, on a folder and on S3.

Once, or from some operation on as where a mount drops: no final reject, no published loss, one line that names the
place, and the next run ends where a run that was never disturbed does. A case that hangs meets the time limit of tests.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from jobs.index import IndexReport
from jobs.verify import Verified, verify
from pipeline.core import s3
from pipeline.core.errors import SightlineError, UserError
from pipeline.core.names import public_url
from pipeline.publish import manifests
from pipeline.publish.lists import load_lists
from pipeline.rejects import read_rejects
from tests.fake_s3 import fake_s3
from tests.life import THOROUGH, Collection, Life, quiet, sampled
from tests.os_faults import Faults, os_faults
from tests.places import OnDisk, on_disk, on_s3
from tests.s3_proxy import Fault, Proxy, proxy_to

OPERATIONS: dict[str, Callable[[Life], Any]] = {
    "first": lambda life: life.index(),
    "append": lambda life: life.index(),
    "compact": lambda life: life.compact(),
    "expire": lambda life: life.expire(),
    "verify": lambda life: verify(life.root, quiet()),
}
ERRORS = (
    *(errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EACCES, errno.EMFILE, errno.ENOSPC, errno.EROFS, errno.EDQUOT),
    errno.ETIMEDOUT,
)
ANSWERS = ("denied", "500", "503", "no bucket", "timeout before", "timeout after", "reset", "lying", "403")
BROKEN_OFF = ("reset", "lying")
"""Answers that end early: those of requests without a body are whole."""


def prepare(here: Collection, operation: str) -> None:
    """A collection before an operation, with a past that gives it something to do."""
    for number in range(6):
        here.put(f"{number:02d}.jpg", f"image {number}")
    here.put("bad.jpg", "bad image")
    if operation == "first":
        return
    here.life.index()
    here.put("10.jpg", "image 10")
    here.images.delete("03.jpg")
    here.life.index()
    here.life.delete("02.jpg")
    here.put("11.jpg", "image 11")
    here.put("04.jpg", "image 4, changed")
    here.images.delete("05.jpg")
    if operation != "append":
        here.life.index()
        here.later(20_000)


@dataclass
class Story:
    """An operation that is disturbed again and again, each time from the same state."""

    here: Collection
    operation: str
    state: Any
    before: dict[str, str]
    expected: tuple[Any, ...]

    def carry_out(self) -> Any:
        return OPERATIONS[self.operation](self.here.life)

    def disturbed(self, where: str) -> None:
        """Carry the operation out where errors are met, and judge what it says and leaves."""
        line = ""
        try:
            result = self.carry_out()
        except SightlineError as error:
            line = str(error)
        except OSError as error:
            raise AssertionError(f"{where}: a raw error {error!r}") from error
        else:
            if isinstance(result, IndexReport):
                assert result.images["rejected"] <= 1, f"{where}: a final reject"
                assert result.exit_code in (0, 4), where
            if isinstance(result, Verified):
                assert result.faults == (), f"{where}: what could not be read is no fault of the object"
        places = [public_url(self.here.life.source), public_url(self.here.life.root)]
        assert not line or any(place in line for place in places), f"{where}: {line!r} names no place"
        assert "\n" not in line

    def judge(self, where: str) -> None:
        """The invariants after errors, and what the next run makes of it."""
        life = self.here.life
        if life.catalog.versions():
            life.check(thorough=False)
            live, there = life.live(), self.expected[0]
            lost = [key for key, sha in self.before.items() if live.get(key) not in (sha, there.get(key))]
            assert not lost, f"{where}: {lost} are lost"
            assert life.catalog.require_head().summary.rejected <= 1, f"{where}: a final reject is published"
        self.carry_out()
        life.check(thorough=THOROUGH)
        assert content(life) == self.expected, f"{where}: the next run ends elsewhere"


def content(life: Life) -> tuple[Any, ...]:
    """What a snapshot says of the images: live ones, rejected ones, how many there are of each sort."""
    head = life.catalog.require_head()
    lists, rejected = load_lists(life.catalog, head), []
    for file in manifests.descriptor_files(lists.descriptors):
        if file.rejects is not None:
            path = life.catalog.fetch(file.rejects, Path(life.recipe).parent)
            rejected += [(reject.key, reject.status, reject.reason) for reject in read_rejects(path)]
    summary = head.summary
    return life.live(), sorted(rejected), (summary.images, summary.seen, summary.rejected, summary.duplicates)


def story(here: Collection, operation: str) -> Story:
    """Prepare, and learn what an operation comes to that nothing disturbs."""
    prepare(here, operation)
    state = here.keep()
    before = here.life.live() if operation != "first" else {}
    made = Story(here, operation, state, before, ())
    made.carry_out()
    made.expected = content(here.life)
    assert len(made.expected[1]) == 1, "one image is a reject"
    here.go_back(state)
    return made


# On a folder ---------------------------------------------------------------------------------------------------------


def on_folder(here: OnDisk, told: Story, number: int, at: int, *, lasting: bool) -> Faults:
    here.go_back(told.state)
    faults = Faults(folders=(here.folder / "src", here.folder / "root"), number=number, at=at, lasting=lasting)
    where = f"{told.operation}, {errno.errorcode.get(number)} {'from' if lasting else 'at'} operation {at}"
    with os_faults(faults):
        told.disturbed(where)
    if number:
        assert faults.failed, f"{where} is met"
        told.judge(f"{where}, {faults.operations[at]}")
    return faults


@pytest.mark.timeout(1800 if THOROUGH else 300)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_errors_of_a_folder_cost_no_image_and_are_told_in_one_line(
    tmp_path: Path, operation: str, record_property: Callable[[str, object], None]
) -> None:
    with on_disk(tmp_path) as here:
        told = story(here, operation)
        names = on_folder(here, told, 0, -1, lasting=False).operations
        kinds = {name: at for at, name in reversed(list(enumerate(names)))}
        # Every class at every kind of operation, and some class at every operation.
        cases = [(number, at, lasting) for at in kinds.values() for number in ERRORS for lasting in (False, True)]
        cases += [(number, at, at % 2 == 0) for at, number in zip(range(len(names)), cycle(ERRORS), strict=False)]
        chosen = sampled(cases, 6)
        for number, at, lasting in chosen:
            on_folder(here, told, number, at, lasting=lasting)
        record_property("cases", len(chosen))


def test_a_source_that_cannot_be_listed_at_first_is_not_said_to_be_empty(tmp_path: Path) -> None:
    with on_disk(tmp_path) as here:
        prepare(here, "first")
        # The second look at the folder is that of the listing.
        faults = Faults(folders=(tmp_path / "src",), number=errno.EIO, at=1)
        with os_faults(faults), pytest.raises(UserError, match=r"src: cannot be listed \(the folder itself\)"):
            here.life.index()
        assert here.life.index().exit_code == 0


def test_a_list_of_rejects_that_cannot_be_read_ends_the_run_in_one_line(tmp_path: Path) -> None:
    with on_disk(tmp_path) as here:
        told = story(here, "first")
        names = on_folder(here, told, 0, -1, lasting=False).operations
        at = next(at for at, name in enumerate(names) if name.startswith("open to read") and "rejects" in name)
        assert on_folder(here, told, errno.EIO, at, lasting=False).failed == 1


# On S3 ---------------------------------------------------------------------------------------------------------------


def on_service(here: Collection, proxy: Proxy, told: Story, kind: str, at: int, *, lasting: bool) -> None:
    here.go_back(told.state)
    before = len(proxy.requests)
    fault = Fault(kind, "GET" if kind in BROKEN_OFF else "", "", after=at, times=10**6 if lasting else 1)
    proxy.faults.append(fault)
    where = f"{told.operation}, {kind} {'from' if lasting else 'at'} request {at}"
    try:
        told.disturbed(where)
    finally:
        proxy.faults.clear()
    if fault.met:
        method, path = proxy.requests[before + at]
        told.judge(f"{where}, {method} {path}")


def requests(proxy: Proxy, told: Story) -> list[tuple[str, str]]:
    """The requests of an operation that nothing disturbs."""
    before = len(proxy.requests)
    told.carry_out()
    return proxy.requests[before:]


@contextmanager
def quick_requests(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Requests that time out soon, and are tried again at once."""
    monkeypatch.setattr(s3, "TIMEOUTS", replace(s3.TIMEOUTS, read=0.5))
    monkeypatch.setattr("pipeline.core.retry.RetryPolicy.pause", lambda *_: 0.0)
    yield


def enumerate_answers(here: Collection, proxy: Proxy, told: Story, count: int) -> int:
    length = len(requests(proxy, told))
    cases = [(kind, at, lasting) for at in range(length) for kind in ANSWERS for lasting in (False, True)]
    # A time-out that lasts takes as many time limits as there are tries.
    cases = [case for case in cases if not (case[2] and case[0].startswith("timeout"))]
    chosen = sampled(cases[:: 16 if THOROUGH else 1], count)
    for kind, at, lasting in chosen:
        on_service(here, proxy, told, kind, at, lasting=lasting)
    return len(chosen)


@pytest.mark.timeout(1800 if THOROUGH else 300)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_errors_of_a_service_cost_no_image_and_are_told_in_one_line(
    tmp_path: Path,
    s3_credentials: None,
    monkeypatch: pytest.MonkeyPatch,
    operation: str,
    record_property: Callable[[str, object], None],
) -> None:
    with (
        quick_requests(monkeypatch),
        fake_s3() as service,
        proxy_to(service.endpoint, pause=0.7) as proxy,
        on_s3("s3://bucket", tmp_path, f"?endpoint={proxy.endpoint}") as here,
    ):
        told = story(here, operation)
        record_property("cases", enumerate_answers(here, proxy, told, 2))


@pytest.mark.s3
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_errors_of_a_real_service_are_no_other_than_those_of_the_small_one(
    bucket: str,
    ceph: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    operation: str,
    record_property: Callable[[str, object], None],
) -> None:
    with (
        quick_requests(monkeypatch),
        proxy_to(ceph, pause=0.7) as proxy,
        on_s3(bucket, tmp_path, f"?endpoint={proxy.endpoint}") as here,
    ):
        told = story(here, operation)
        record_property("cases", enumerate_answers(here, proxy, told, 2))
