"""A kapture dataset: sensors/records_camera.txt names the images beneath sensors/records_data. Poses are not read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from pydantic import JsonValue

from pipeline.core.errors import NotFoundError, UserError
from pipeline.core.names import join_location, public_url
from pipeline.core.storage import Store, file_name, open_store
from pipeline.core.text import decoded
from pipeline.sources import SourceSpec
from pipeline.sources._files import NamedFiles

RECORDS = "sensors/records_camera.txt"
DATA = "sensors/records_data"


class Spec(SourceSpec):
    """Images of the camera records; the key is the kapture image name, which all kapture files use."""

    initial: ClassVar[dict[str, JsonValue]] = {}
    packs: ClassVar[bool] = True

    def open(self, location: str) -> NamedFiles:
        """Read the records; a UserError names the line that cannot be used."""
        shown = public_url(location).rstrip("/")
        try:
            text = decoded(open_store(location).read(RECORDS), f"{shown}/{RECORDS}")
        except NotFoundError:
            raise UserError(shown, f"has no {RECORDS}", "give a kapture folder or another --source-kind") from None
        images = self.files(location)
        names = [file_name(images, name) for name in _names(text, f"{shown}/{RECORDS}")]
        return NamedFiles(images, names, self.selects)

    def files(self, location: str) -> Store:
        """Return the folder of the records' images."""
        return open_store(join_location(location, DATA))


def _names(text: str, shown: str) -> Iterator[str]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = [field.strip() for field in line.split(",", 2)]
        if len(fields) != 3 or not fields[2]:
            raise UserError(f"{shown} line {number}", "is not timestamp, device, image path", "correct the line")
        yield fields[2]
