"""Catalog: the one object that decides every location in a ROOT, and through which everything is read and committed.

Everything named in a snapshot is read with its size and sha256 verified. A snapshot is committed by create-if-absent
of the next number; who reads the name back and finds another writer has lost. Nothing here computes.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from pipeline.core.artifacts import fetch_artifact, file_digest, read_artifact
from pipeline.core.errors import (
    CommitUnknownError,
    ConflictError,
    ExistsError,
    IntegrityError,
    NotFoundError,
    SightlineError,
    TransientError,
    UserError,
)
from pipeline.core.names import public_url
from pipeline.core.specs import canonical, explain
from pipeline.core.storage import Store
from pipeline.core.types import Artifact, Record
from pipeline.publish.marks import expired
from pipeline.publish.snapshot import FORMAT, Snapshot, parse_snapshot, snapshot_bytes

log = logging.getLogger("sightline")

M = TypeVar("M", bound=Record)


class Format(Record):
    """Content of format.json."""

    format: int


class Catalog:
    """A ROOT: where things lie, and safe ways to read, write and commit them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.shown = public_url(store.url)

    # Locations ----------------------------------------------------------------------------------------------------

    @staticmethod
    def snapshot_name(version: int) -> str:
        """Where snapshot `version` lies; also the commit point."""
        return f"snapshots/{version:08d}.json"

    @staticmethod
    def descriptor_name(recipe_id: str, shard_id: str, writer: str) -> str:
        """Where a writer stages a shard's descriptor file."""
        return f"descriptors/{recipe_id}/{shard_id}-{writer}.parquet"

    @staticmethod
    def rejects_name(recipe_id: str, shard_id: str, writer: str) -> str:
        """Where a writer stages the list of a shard's images that were not indexed."""
        return f"descriptors/{recipe_id}/{shard_id}-{writer}.rejects.parquet"

    @staticmethod
    def record_name(recipe_id: str, shard_id: str) -> str:
        """Where the completion record of a shard lies: the truth about which file counts."""
        return f"descriptors/{recipe_id}/{shard_id}.json"

    @staticmethod
    def artifact_record_name(key: str) -> str:
        """Where the completion record of a fit or a training lies; key is a digest of what went in."""
        return f"artifacts/records/{key}.json"

    @staticmethod
    def index_record_name(index_id: str, key: str) -> str:
        """Where the completion record of a filled index shard lies; key is a digest of what went in."""
        return f"indexes/{index_id}/{key}.json"

    @staticmethod
    def failure_name(source_id: str, shard_id: str) -> str:
        """Where it is remembered that a container cannot be read; nothing depends on it."""
        return f"failures/{source_id}/{shard_id}.json"

    # Objects by digest ---------------------------------------------------------------------------------------------

    def put_artifact(self, data: bytes, filename: str) -> Artifact:
        """Store bytes under their digest, once."""
        sha = hashlib.sha256(data).hexdigest()
        return self._stage(data, f"artifacts/{sha}/{filename}", sha)

    def put_manifest_file(self, path: Path) -> Artifact:
        """Store a manifest from a local file under its digest, once."""
        return self._upload_once(path, f"manifests/{file_digest(path)}.parquet")

    def put_manifest(self, data: bytes) -> Artifact:
        """Store a manifest's bytes under their digest, once."""
        sha = hashlib.sha256(data).hexdigest()
        return self._stage(data, f"manifests/{sha}.parquet", sha)

    def _stage(self, data: bytes, name: str, sha: str) -> Artifact:
        artifact = Artifact(uri=name, sha256=sha, bytes=len(data))
        if not self._there(artifact):
            self.store.write(name, data)
        return artifact

    def _there(self, artifact: Artifact) -> bool:
        # The name says the content, so an object already there with the right size needs no second write.
        try:
            return self.store.stat(artifact.uri).size == artifact.bytes
        except NotFoundError:
            return False

    def upload(self, path: Path, name: str) -> Artifact:
        """Store a local file under a name that nobody else writes."""
        artifact = Artifact(uri=name, sha256=file_digest(path), bytes=path.stat().st_size)
        self.store.upload(path, name)
        return artifact

    def upload_index(self, path: Path, index_id: str, suffix: str) -> Artifact:
        """Store an index shard under its digest."""
        return self._upload_once(path, f"indexes/{index_id}/{file_digest(path)}{suffix}")

    def upload_artifact(self, path: Path, filename: str) -> Artifact:
        """Store a local file as an artifact under its digest."""
        return self._upload_once(path, f"artifacts/{file_digest(path)}/{filename}")

    def upload_rewritten(self, path: Path, recipe_id: str, shard_id: str) -> tuple[str, Artifact]:
        """Store a descriptor file that was made of another one; return its writer, which is its digest's beginning."""
        writer = file_digest(path)[:12]
        return writer, self._upload_once(path, self.descriptor_name(recipe_id, shard_id, writer))

    def _upload_once(self, path: Path, name: str) -> Artifact:
        # What is there may be in use: it is not written over, not even with the same bytes.
        artifact = Artifact(uri=name, sha256=file_digest(path), bytes=path.stat().st_size)
        if not self._there(artifact):
            self.store.upload(path, name)
        return artifact

    def read(self, artifact: Artifact) -> bytes:
        """Return an artifact's bytes, verified."""
        return read_artifact(self.store, artifact)

    def fetch(self, artifact: Artifact, folder: Path) -> Path:
        """Return a local path of an artifact, verified; remote stores download into `folder`."""
        return fetch_artifact(self.store, artifact, folder)

    # Completion records -----------------------------------------------------------------------------------------

    def record(self, name: str, model: type[M]) -> M | None:
        """Return a completion record, or None when the work has not been completed.

        A record that is malformed proves nothing, and neither does one that names an object which is missing or has
        another size: the work counts as not completed, and is done again. Digests are compared when objects are read.
        """
        try:
            found = model.model_validate_json(self.store.read(name))
        except NotFoundError:
            return None
        except ValidationError as error:
            if model is Format:
                # It records no work, and may be that of a later release.
                raise IntegrityError(name, f"is malformed ({explain(error)})") from None
            log.warning("%s is malformed (%s): the work that it records is done again", name, explain(error))
            return None
        for artifact in _artifacts(found):
            if not self._there(artifact):
                log.warning(
                    "%s names %s, which is missing or has another size: the work that it records is done again",
                    name,
                    artifact.uri,
                )
                return None
        return found

    def complete(self, name: str, value: M) -> M:
        """Record that work is complete, unless somebody already has; return the record that counts."""
        try:
            self.store.put_if_absent(name, canonical(value.model_dump(mode="json")))
        except ExistsError:
            winner = self.record(name, type(value))
            if winner is None:
                # What is there counts as absent: it is replaced, and of several who do so the last one counts.
                self.store.write(name, canonical(value.model_dump(mode="json")))
                winner = self.record(name, type(value))
            assert winner is not None, "completion records are never deleted while work goes on"
            return winner
        return value

    def require_exclusive(self) -> None:
        """Make sure that a name can be taken once only: without that, one run would publish over another unnoticed.

        A UserError when the store lets an object that exists be created again, as old S3-compatible services do, which
        ignore If-None-Match. A look before each write, which only a race shows to be none, is not noticed.
        """
        name, data = "format.json", canonical(Format(format=FORMAT).model_dump(mode="json"))
        # Other bytes: those of a try whose answer was lost would pass for our own.
        for body in (data, data + b"\n"):
            try:
                self.store.put_if_absent(name, body)
            except ExistsError:
                return
        raise UserError(
            self.shown,
            "lets an object that exists be created again (its service ignores If-None-Match), so that two runs could "
            "publish over each other",
            "use a ROOT on another service or file system",
        )

    # Snapshots ----------------------------------------------------------------------------------------------------

    def versions(self) -> list[int]:
        """Return the committed versions, ascending. What else lies there, a backup say, is none of them."""
        found = []
        for entry in self.store.list("snapshots"):
            stem = Path(entry.path).stem
            if stem.isascii() and stem.isdigit() and entry.path == self.snapshot_name(int(stem)):
                found.append(int(stem))
        return sorted(found)

    def load(self, version: int) -> Snapshot:
        """Return a snapshot, verified against its own digest and number."""
        name = self.snapshot_name(version)
        try:
            snapshot = parse_snapshot(self.store.read(name), name)
        except NotFoundError:
            raise UserError(f"{self.shown}", f"has no snapshot {version}", "see `sightline status`") from None
        if snapshot.version != version:
            raise IntegrityError(name, f"says it is snapshot {snapshot.version}")
        return snapshot

    def load_kept(self, version: int) -> Snapshot:
        """Return a snapshot whose data are still there; a UserError when it has expired.

        Whoever goes on to use an old one holds a lease on it before asking (see leases.py).
        """
        snapshot = self.load(version)
        if version in expired(self.store):
            raise UserError(
                f"{self.shown}", f"snapshot {version} has expired, its data are gone or going", "see `sightline status`"
            )
        return snapshot

    def head(self) -> Snapshot | None:
        """Return the latest snapshot, or None in a new ROOT; refuses a ROOT of a newer format."""
        versions = self.versions()
        if not versions:
            return None
        known = self.record("format.json", Format)
        if known is not None and known.format > FORMAT:
            raise SightlineError(f"{self.shown}: format {known.format} is newer than this release; upgrade Sightline")
        return self.load(versions[-1])

    def require_head(self) -> Snapshot:
        """Return the latest snapshot; a UserError when nothing has been published here."""
        head = self.head()
        if head is None:
            raise UserError(self.shown, "has no snapshot", "publish one with `sightline index SOURCE ROOT`")
        return head

    def commit(self, snapshot: Snapshot) -> Snapshot:
        """Publish a snapshot under its number. ConflictError names the winner; CommitUnknownError deletes nothing."""
        name = self.snapshot_name(snapshot.version)
        data = snapshot_bytes(snapshot)
        self.require_exclusive()
        try:
            self.store.put_if_absent(name, data)
        except (ExistsError, TransientError) as error:
            # A retried request can meet its own first try, and a timeout can have succeeded: only reading back tells.
            try:
                found = self.store.read(name)
            except (NotFoundError, TransientError):
                raise CommitUnknownError(
                    f"{self.shown}: whether snapshot {snapshot.version} was committed could not be "
                    f"established ({error}); run the same command again, nothing was deleted"
                ) from None
            if found != data:
                winner = parse_snapshot(found, name)
                raise ConflictError(
                    f"{self.shown}: snapshot {snapshot.version} was committed by writer {winner.writer} while writer "
                    f"{snapshot.writer} was working; run the same command again, finished shards are not redone"
                ) from None
        return snapshot


def _artifacts(record: Record) -> tuple[Artifact, ...]:
    """Return the objects that a completion record names."""
    if isinstance(record, Artifact):
        return (record,)
    return tuple(value for _, value in record if isinstance(value, Artifact))
