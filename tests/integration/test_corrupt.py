"""Containers that fail because of their bytes: read once, remembered, reported, and tried again when that may help."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import run as command
from jobs.output import status_lines
from jobs.repair import RepairOptions, repair
from jobs.status import status
from pipeline.core import memory
from pipeline.core.errors import ReadError, SightlineError
from pipeline.core.memory import MemoryStore
from pipeline.publish.catalog import Catalog
from pipeline.publish.lists import load_lists
from pipeline.stages.expire import DAY
from tests.builders import jpeg, tar_bytes, write_files
from tests.faulty import Watched
from tests.integration.test_touched import arrow, parquet
from tests.life import InMemory, in_memory, quiet

CONTENTS = [b"image 1", b"image 2", b"image 3"]
SOUND: dict[str, bytes] = {
    "tar": tar_bytes({f"{n}.jpg": data for n, data in enumerate(CONTENTS)}),
    "parquet": parquet(CONTENTS),
    "arrow": arrow(CONTENTS),
}
LENGTHS = {"tar": 3000, "parquet": len(SOUND["parquet"]), "arrow": len(SOUND["arrow"])}
"""Bytes that say something: what follows them in a tar are zeros."""
TAR = SOUND["tar"]
SHORT = TAR[:1100]


class Reads:
    """Counts what is opened or read of each file; `after`: makes something else of the bytes of a read."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.after: Callable[[str, Any], Any] = lambda _, result: result

    def __call__(self, kind: str, name: str, carry_out: Callable[[], Any]) -> Any:
        if kind not in ("open", "read", "local"):
            return carry_out()
        self.names.append(name)
        return self.after(name, carry_out())

    def taken(self) -> list[str]:
        names, self.names = self.names, []
        return names


@pytest.fixture
def here() -> Iterator[InMemory]:
    with in_memory() as made:
        made.life.kind = "tar"
        yield made


@pytest.fixture
def reads(here: InMemory) -> Reads:
    hook = Reads()
    memory.register(here.images.url.removeprefix("memory://"), Watched(here.images, hook))
    return hook


def records(here: InMemory) -> list[dict[str, Any]]:
    return [json.loads(here.objects.read(entry.path)) for entry in here.objects.list("failures")]


@pytest.mark.parametrize("kind", SOUND)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_a_corrupt_container_is_read_by_one_run_and_no_later_one(
    here: InMemory, reads: Reads, kind: str, share: float
) -> None:
    here.life.kind = kind
    here.images.write(f"a.{kind}", SOUND[kind])
    here.images.write(f"b.{kind}", SOUND[kind][: int(share * LENGTHS[kind])])
    report = here.life.index()
    assert (report.exit_code, report.published, report.images["indexed"]) == (4, True, 3)
    assert [failure.path for failure in report.failures] == [f"b.{kind}"]
    assert reads.taken()
    objects = dict(here.objects.objects)
    for _ in range(2):
        again = here.life.index()
        assert (again.exit_code, again.published, again.snapshot) == (4, False, report.snapshot)
        assert again.failures == report.failures, "it is still reported"
        assert list(again.set_aside) == list(report.set_aside)
        assert reads.taken() == []
    assert here.objects.objects == objects, "nothing is written"
    here.life.check()


def test_it_is_skipped_while_others_come_and_tried_again_once_it_changes(here: InMemory, reads: Reads) -> None:
    here.images.write("a.tar", TAR)
    here.images.write("b.tar", SHORT)
    here.life.index()
    here.images.write("c.tar", tar_bytes({"c.jpg": b"image c"}))
    reads.taken()
    report = here.life.index()
    assert (report.exit_code, report.images["indexed"]) == (4, 4)
    assert set(reads.taken()) == {"c.tar"}
    here.images.write("b.tar", tar_bytes({"b.jpg": b"image b"}))
    mended = here.life.index()
    assert (mended.exit_code, mended.images["indexed"], mended.failures, mended.set_aside) == (0, 5, (), {})
    here.life.check()


def test_what_was_published_of_a_container_that_became_corrupt_stays(here: InMemory, reads: Reads) -> None:
    here.images.write("a.tar", TAR)
    here.life.index()
    live = here.life.live()
    for data in (SHORT, TAR[:-600] + bytes(600 - 512) + b"x" * 512):
        here.images.write("a.tar", data)
        first = here.life.index()
        assert (first.exit_code, first.published, here.life.live()) == (4, False, live)
        reads.taken()
        second = here.life.index()
        assert (second.exit_code, second.published, reads.taken()) == (4, False, [])
        assert second.failures == first.failures
        here.life.check()


@pytest.mark.parametrize(
    "error",
    [
        ReadError("b.tar: Input/output error"),
        OSError(5, "Input/output error"),
        MemoryError(),
        RuntimeError("a bug, or memory that ended"),
        TimeoutError(110, "timed out"),
        ValueError("of a library"),
    ],
    ids=repr,
)
def test_errors_of_reading_and_of_the_process_are_never_remembered(
    here: InMemory, reads: Reads, error: BaseException
) -> None:
    here.images.write("a.tar", tar_bytes({"a.jpg": b"image a"}))
    here.images.write("b.tar", TAR)

    def fail(name: str, result: Any) -> Any:
        if name == "b.tar":
            raise error
        return result

    reads.after = fail
    report = here.life.index()
    assert (report.exit_code, report.images["indexed"], report.failures, records(here)) == (4, 1, (), [])
    reads.after = lambda _, result: result
    assert here.life.index().images["indexed"] == 4


def test_bytes_that_are_lost_on_the_way_once_are_not_taken_for_those_of_the_container(
    here: InMemory, reads: Reads
) -> None:
    here.images.write("a.tar", TAR)
    times = iter(range(10))
    other = MemoryStore("other")
    other.write("a.tar", SHORT)
    reads.after = lambda name, result: result if next(times) else other.open(name)
    report = here.life.index()
    assert (report.exit_code, report.images["indexed"], records(here)) == (0, 3, [])


def test_a_container_that_fails_in_two_ways_is_tried_again(here: InMemory, reads: Reads) -> None:
    here.images.write("a.tar", tar_bytes({"a.jpg": b"image a"}))
    here.images.write("b.tar", TAR)
    other = MemoryStore("other")
    times = iter(range(10_000))

    def garbled(name: str, result: Any) -> Any:
        other.write("b.tar", TAR[: 600 + 512 * (next(times) % 2)])
        return other.open("b.tar") if name == "b.tar" else result

    reads.after = garbled
    report = here.life.index()
    assert (report.exit_code, len(report.set_aside), records(here)) == (4, 1, [])


def test_a_container_that_is_replaced_while_it_is_read_is_tried_again(here: InMemory, reads: Reads) -> None:
    here.images.write("a.tar", tar_bytes({"a.jpg": b"image a"}))
    here.images.write("b.tar", SHORT)

    def replaced(name: str, result: Any) -> Any:
        if name == "b.tar":
            here.images.write("b.tar", TAR)
        return result

    reads.after = replaced
    report = here.life.index()
    assert "changed since it was listed" in next(iter(report.set_aside.values()))
    assert records(here) == []
    assert here.life.index().images["indexed"] == 4


def test_retry_rejected_tries_those_whose_reason_contains_it_and_counts_its_tries(here: InMemory, reads: Reads) -> None:
    here.images.write("a.tar", tar_bytes({"a.jpg": b"image a"}))
    here.images.write("b.tar", SHORT)
    (first,) = here.life.index().failures
    reads.taken()
    other = here.life.index(retry_rejected="no such reason")
    assert (other.failures, reads.taken()) == ((first,), [])
    for attempts, reason in ((2, ""), (3, "TRUNCATED")):
        again = here.life.index(retry_rejected=reason)
        assert (again.published, "b.tar" in reads.taken()) == (False, True)
        assert again.failures == (first.model_copy(update={"attempts": attempts}),)
    assert [record["attempts"] for record in records(here)] == [3]


def test_one_that_is_read_when_it_is_tried_again_is_forgotten(here: InMemory, reads: Reads) -> None:
    """As with a release that reads what the one before could not."""
    here.images.write("a.tar", tar_bytes({"a.jpg": b"image a"}))
    here.images.write("b.tar", SHORT)
    here.life.index()
    whole = MemoryStore("whole")
    whole.write("b.tar", bytes(len(SHORT)))
    reads.after = lambda name, result: whole.open(name) if name == "b.tar" else result
    report = here.life.index(retry_rejected="")
    assert (report.exit_code, report.failures, records(here)) == (0, (), [])
    assert here.life.index().exit_code == 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda record: b"",
        lambda record: b"{}",
        lambda record: json.dumps({**record, "shard_id": "other"}).encode(),
        lambda record: json.dumps({**record, "path": "other.tar"}).encode(),
        lambda record: json.dumps({**record, "etag": "other"}).encode(),
        lambda record: json.dumps({**record, "size": 1}).encode(),
        lambda record: json.dumps({**record, "reading": 0}).encode(),
    ],
    ids=["empty", "malformed", "shard", "path", "etag", "size", "release"],
)
def test_records_that_are_unreadable_or_contradict_count_as_absent_and_are_mended(
    here: InMemory, reads: Reads, spoil: Callable[[dict[str, Any]], bytes]
) -> None:
    here.images.write("a.tar", tar_bytes({"a.jpg": b"image a"}))
    here.images.write("b.tar", SHORT)
    here.life.index()
    (name,) = (entry.path for entry in here.objects.list("failures"))
    good = json.loads(here.objects.read(name))
    here.objects.write(name, spoil(good))
    reads.taken()
    report = here.life.index()
    assert (report.exit_code, report.published, "b.tar" in reads.taken()) == (4, False, True)
    assert [{**record, "since": ""} for record in records(here)] == [{**good, "since": ""}]
    here.life.index()
    assert reads.taken() == []


def test_a_completion_record_counts_more_than_a_failure(here: InMemory, reads: Reads) -> None:
    here.images.write("a.tar", tar_bytes({"a.jpg": b"image a"}))
    here.images.write("b.tar", SHORT)
    here.life.index()
    (failure,) = (entry.path for entry in here.objects.list("failures"))
    here.images.write("c.tar", TAR)
    here.life.index()
    lists = load_lists(here.life.catalog, here.life.catalog.require_head())
    shards = {row["path"]: row["shard"] for batch in lists.listing.batches() for row in batch.to_pylist()}
    contradicting = f"{failure.rpartition('/')[0]}/{shards['c.tar']}.json"
    about = {"path": "c.tar", "size": len(TAR), "etag": here.images.stat("c.tar").etag, "shard_id": shards["c.tar"]}
    here.objects.write(contradicting, json.dumps({**json.loads(here.objects.read(failure)), **about}).encode())
    here.life.rollback(1)
    report = here.life.index()
    assert report.images["indexed"] == 4
    assert not here.objects.exists(contradicting)


def test_a_repair_gives_up_what_is_remembered_of_the_shards_that_it_gives_up(here: InMemory, reads: Reads) -> None:
    test_a_completion_record_counts_more_than_a_failure(here, reads)
    lists = load_lists(here.life.catalog, here.life.catalog.require_head())
    (failure,) = (entry.path for entry in here.objects.list("failures"))
    shards = {row["path"]: row["shard"] for batch in lists.listing.batches() for row in batch.to_pylist()}
    about = {"path": "c.tar", "size": len(TAR), "etag": here.images.stat("c.tar").etag, "shard_id": shards["c.tar"]}
    contradicting = f"{failure.rpartition('/')[0]}/{shards['c.tar']}.json"
    here.objects.write(contradicting, json.dumps({**json.loads(here.objects.read(failure)), **about}).encode())
    (file,) = (f for f in here.objects.list("descriptors") if f.path.endswith(".parquet") and shards["c.tar"] in f.path)
    here.objects.write(file.path, b"rotten" * (file.size // 6) + b"x" * (file.size % 6))
    _, repaired = repair(RepairOptions(root=here.life.root, lease=here.life.times), quiet())
    assert (repaired.published, repaired.images) == (True, 3)
    assert not here.objects.exists(contradicting)
    assert here.life.index().images["indexed"] == 4
    here.life.check(thorough=False)


def many(here: InMemory, sound: int, corrupt: int, start: int = 0) -> None:
    for n in range(start, start + sound + corrupt):
        data = tar_bytes({f"{n}.jpg": f"image {n}".encode()})
        here.images.write(f"{n:03d}.tar", data if n < start + sound else data[:700])


def test_many_failures_at_once_are_not_remembered_until_the_gate_lets_them_through(here: InMemory) -> None:
    many(here, 19, 11)
    for _ in range(2):
        report = here.life.index()
        assert (report.exit_code, report.published, len(report.set_aside)) == (4, False, 11)
        assert "11 of 30 shards failed" in report.past_gate
        assert (report.failures, records(here)) == ((), [])
    opened = here.life.index(max_failed_rate=1.0)
    assert (opened.published, len(opened.failures)) == (True, 11)


def test_corrupt_containers_that_are_remembered_hold_no_later_run_back(here: InMemory) -> None:
    many(here, 40, 10)
    assert here.life.index().published
    many(here, 3, 2, start=100)
    report = here.life.index()
    assert (report.exit_code, report.published, report.past_gate) == (4, True, "")
    assert (len(report.failures), report.images["indexed"]) == (12, 43)
    many(here, 1, 0, start=200)
    report = here.life.index()
    assert (report.published, report.past_gate, len(report.failures)) == (True, "", 12)


def test_a_first_run_of_which_nothing_could_be_indexed_remembers_nothing(here: InMemory) -> None:
    here.images.write("a.tar", SHORT)
    for _ in range(2):
        with pytest.raises(SightlineError, match="nothing could be indexed"):
            here.life.index()
        assert records(here) == []


def test_another_extractor_does_not_read_it_again_and_other_reading_settings_do(here: InMemory, reads: Reads) -> None:
    here.images.write("a.tar", TAR)
    here.images.write("b.tar", SHORT)
    here.life.index()
    recipes = MemoryStore(here.life.recipe.rpartition("/")[0].removeprefix("memory://"))
    memory.register(recipes.url.removeprefix("memory://"), recipes)
    text = 'dtype = "float32"\nindexes = [{kind = "flat"}]\n[extractor]\nkind = "toy"\n'
    recipes.write("toy.toml", text.encode())
    reads.taken()
    report = here.life.index()
    assert (report.published, len(report.failures), set(reads.taken())) == (True, 1, {"a.tar"})
    recipes.write("toy.toml", f'{text}[source]\nkind = "tar"\nexclude = ["*.txt"]\n'.encode())
    report = here.life.index()
    assert (report.published, len(report.failures), set(reads.taken())) == (True, 1, {"a.tar", "b.tar"})


def test_a_run_that_is_killed_before_it_remembers_reads_it_again_and_publishes_nothing(
    here: InMemory, reads: Reads
) -> None:
    here.images.write("a.tar", TAR)
    here.images.write("b.tar", SHORT)
    here.life.index()
    for entry in list(here.objects.list("failures")):
        here.objects.delete(entry.path)
    reads.taken()
    report = here.life.index()
    assert (report.published, len(report.failures), set(reads.taken())) == (False, 1, {"b.tar"})
    assert len(records(here)) == 1


def test_garbage_collection_drops_what_no_run_needs_and_keeps_the_rest(here: InMemory, reads: Reads) -> None:
    here.images.write("a.tar", TAR)
    for name in ("b.tar", "c.tar", "d.tar"):
        here.images.write(name, SHORT)
    here.life.index()
    here.clock.now += 10_000
    here.life.expire()
    assert len(records(here)) == 3
    here.images.write("b.tar", tar_bytes({"b.jpg": b"image b"}))
    here.images.delete("c.tar")
    here.life.index()
    here.clock.now += 10_000
    here.life.expire(grace=1)
    assert len(records(here)) == 3, "within its grace"
    assert [failure["path"] for failure in status(here.life.root)["failed_shards"]] == ["d.tar"]
    here.life.delete("a.tar/0.jpg")
    here.life.expire()
    assert [record["path"] for record in records(here)] == ["d.tar"]
    reads.taken()
    assert (len(here.life.index().failures), reads.taken()) == (1, [])
    here.objects.write("failures/of-another-source/x.json", b"")
    here.objects.write("failures/odd", b"")
    here.life.expire()
    assert [record["path"] for record in records(here)] == ["d.tar"]
    here.life.check()


def test_a_failure_that_no_snapshot_knows_is_kept_however_often_others_publish(here: InMemory, reads: Reads) -> None:
    """The run that met it had nothing to publish."""
    here.images.write("a.tar", TAR)
    here.life.index()
    here.images.write("b.tar", SHORT)
    assert here.life.index().published is False
    here.life.delete("a.tar/0.jpg")
    here.clock.now += 30 * DAY
    here.life.expire()
    assert len(records(here)) == 1
    assert len(status(here.life.root)["failed_shards"]) == 1
    reads.taken()
    assert (here.life.index().published, reads.taken()) == (False, [])


def test_a_snapshot_that_cannot_be_read_any_more_stops_neither_status_nor_garbage_collection(here: InMemory) -> None:
    here.images.write("a.tar", TAR)
    here.images.write("b.tar", SHORT)
    here.life.index()
    here.life.delete("a.tar/0.jpg")
    here.objects.write("snapshots/00000001.json", b"rotten")
    here.clock.now += 10_000
    assert here.life.expire()["complete"]
    assert len(status(here.life.root, history=1)["failed_shards"]) == 1
    assert len(here.life.index().failures) == 1


def test_two_runs_that_meet_it_at_once_leave_one_record(here: InMemory) -> None:
    here.images.write("a.tar", TAR)
    here.life.index()
    here.images.write("b.tar", SHORT)
    other = replace(here.life)

    def meanwhile(kind: str, name: str, carry_out: Callable[[], Any]) -> Any:
        if kind == "put_if_absent" and name.startswith("failures/") and not records(here):
            assert len(other.index().failures) == 1
        return carry_out()

    other.root = f"memory://{here.name}-again"
    memory.register(f"{here.name}-again", here.objects)
    with here.through(lambda store: Watched(store, meanwhile)):
        assert len(here.life.index().failures) == 1
    memory.register(f"{here.name}-again", None)
    assert [record["attempts"] for record in records(here)] == [1]


def test_people_and_scripts_are_told_which_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tars = {f"{n}.tar": tar_bytes({"0.jpg": jpeg(n), "1.jpg": jpeg(n + 10)}) for n in range(4)}
    tars |= {f"{n}.tar": tars[f"{n}.tar"][:900] for n in range(1, 4)}
    source, root = write_files(tmp_path / "src", tars), tmp_path / "root"
    arguments = ["index", str(source), str(root), "--recipe", "hsv-histogram", "--indexes", "flat"]
    assert command(arguments) == 4
    said = capsys.readouterr().out
    assert "failed shards: 3 x truncated, e.g. '1.tar', since 2" in said
    assert "mend or remove the file, or try it again with --retry-rejected" in said
    assert "tried again next time" not in said
    assert command([*arguments, "--json"]) == 4
    told = json.loads(capsys.readouterr().out)
    assert told["published"] is False
    assert len(told["set_aside"]) == 3
    first = told["failed_shards"][0]
    assert (first["path"], first["attempts"]) == ("1.tar", 1)
    assert first["reason"].startswith("truncated")
    assert told["set_aside"][first["shard_id"]].startswith("1.tar: truncated")
    assert command(["status", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["failed_shards"] == told["failed_shards"]
    assert any("failed shards: 3 x truncated, e.g. '1.tar'" in line for line in status_lines(status(str(root))))
    assert command([*arguments, "--dry-run"]) == 4
    assert "failed shards: 3 x truncated" in capsys.readouterr().out


def test_catalog_names_the_record_by_what_reads_and_by_shard() -> None:
    assert Catalog.failure_name("reads", "shard") == "failures/reads/shard.json"
