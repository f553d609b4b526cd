"""Objects of a ROOT: written once under their digest, and completion records that count while those are there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.memory import MemoryStore
from pipeline.core.types import Artifact, DescriptorFile
from pipeline.publish.catalog import Catalog
from tests.faulty import Watched


def memory(writes: list[str]) -> Catalog:
    """A catalog in memory that notes what is written."""

    def hook(kind: str, name: str, carry_out: Any) -> Any:
        if kind in ("write", "upload", "put_if_absent"):
            writes.append(name)
        return carry_out()

    return Catalog(Watched(MemoryStore("root"), hook))


def test_objects_are_written_once_under_their_digest_and_anew_where_they_have_another_size(tmp_path: Path) -> None:
    writes: list[str] = []
    catalog = memory(writes)
    path = tmp_path / "file"
    path.write_bytes(b"content")
    sha = hashlib.sha256(b"content").hexdigest()
    puts: dict[str, Callable[[], Artifact]] = {
        f"artifacts/{sha}/a.bin": lambda: catalog.put_artifact(b"content", "a.bin"),
        f"artifacts/{sha}/b.bin": lambda: catalog.upload_artifact(path, "b.bin"),
        f"manifests/{sha}.parquet": lambda: catalog.put_manifest(b"content"),
        f"indexes/i/{sha}.faiss": lambda: catalog.upload_index(path, "i", ".faiss"),
        f"descriptors/r/s-{sha[:12]}.parquet": lambda: catalog.upload_rewritten(path, "r", "s")[1],
    }
    for name, put in puts.items():
        expected = Artifact(uri=name, sha256=sha, bytes=7)
        assert [put(), put()] == [expected, expected]
        assert catalog.read(expected) == b"content"
        catalog.store.write(name, b"half")
        put()
        assert catalog.read(expected) == b"content"
        assert writes == [name, name, name], "once, cut on purpose, and anew"
        writes.clear()
    assert catalog.put_manifest_file(path) == catalog.put_manifest(b"content")
    assert catalog.upload_rewritten(path, "r", "s")[0] == sha[:12]
    assert writes == []
    own = catalog.upload(path, "own name")
    assert (own, catalog.read(own)) == (Artifact(uri="own name", sha256=sha, bytes=7), b"content")
    catalog.upload(path, "own name")
    assert writes == ["own name", "own name"]


def described(catalog: Catalog, *, writer: str = "w", rejects: bool = True) -> DescriptorFile:
    return DescriptorFile(
        shard_id="s",
        writer=writer,
        artifact=catalog.put_artifact(b"descriptors", "x.parquet"),
        rejects=catalog.put_artifact(b"rejects", "x.rejects") if rejects else None,
        rows=1,
        indexed=1,
        rejected=1,
        duplicates=0,
        dim=1,
        dtype="float32",
    )


@pytest.mark.parametrize("part", ["artifact", "rejects"])
def test_a_completion_record_counts_while_all_that_it_names_is_there(
    part: str, caplog: pytest.LogCaptureFixture
) -> None:
    catalog = memory([])
    name = catalog.record_name("r", "s")
    assert catalog.record(name, DescriptorFile) is None
    assert not caplog.records, "that work has not been done yet is nothing to be warned of"
    first = described(catalog)
    assert catalog.complete(name, first) == catalog.record(name, DescriptorFile) == first
    catalog.store.write(getattr(first, part).uri, b"x")
    assert catalog.record(name, DescriptorFile) is None
    assert f"{getattr(first, part).uri}, which is missing or has another size" in caplog.text
    catalog.store.delete(getattr(first, part).uri)
    assert catalog.record(name, DescriptorFile) is None
    second = described(catalog, writer="v", rejects=False)
    if part == "rejects":
        assert catalog.complete(name, second) == second, "what counts as absent is replaced"
        assert catalog.record(name, DescriptorFile) == second
    else:
        assert catalog.complete(name, second) == first, "all that the first names is there again, and it counts"


def test_a_malformed_completion_record_is_warned_of_and_replaced(caplog: pytest.LogCaptureFixture) -> None:
    catalog = memory([])
    catalog.store.write("artifacts/records/x.json", b"{}")
    value = catalog.put_artifact(b"content", "x")
    assert catalog.complete("artifacts/records/x.json", value) == value
    assert catalog.record("artifacts/records/x.json", Artifact) == value
    assert "artifacts/records/x.json is malformed" in caplog.text
