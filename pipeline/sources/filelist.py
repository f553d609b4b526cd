"""A text file of image paths, as DIR's ImageList: one path a line, relative to a root. Nothing beyond it is listed."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, JsonValue

from pipeline.core.errors import NotFoundError, UserError
from pipeline.core.local import LocalStore
from pipeline.core.names import absolute_location, public_url
from pipeline.core.specs import NOT_IN_FINGERPRINT
from pipeline.core.storage import Store, file_name, open_store, split_location
from pipeline.core.text import decoded
from pipeline.sources import SourceSpec
from pipeline.sources._files import NamedFiles


def _full(root: str) -> str:
    return absolute_location(root) if root else root


class Spec(SourceSpec):
    """Paths relative to `root` (default: the folder that holds the list); blank lines and # lines are ignored."""

    initial: ClassVar[dict[str, JsonValue]] = {}
    packs: ClassVar[bool] = True

    root: Annotated[str, AfterValidator(_full)] = Field(default="", json_schema_extra=NOT_IN_FINGERPRINT)

    def open(self, location: str) -> NamedFiles:
        """Read the list; a UserError names the line that cannot be used."""
        store, name = split_location(location)
        shown = public_url(location)
        images = self.files(location)
        try:
            # Local file names are bytes, of whatever encoding; keys on S3 are UTF-8.
            text = decoded(store.read(name), shown, other_bytes=isinstance(images, LocalStore))
        except NotFoundError:
            raise UserError(shown, "does not exist", "check the path") from None
        names = [
            _relative(line.strip(), images, f"{shown} line {number}")
            for number, line in enumerate(text.split("\n"), start=1)
            if line.strip() and not line.startswith("#")
        ]
        return NamedFiles(images, names, self.selects)

    def files(self, location: str) -> Store:
        """Return the root."""
        return open_store(self.root) if self.root else split_location(location)[0]


def _relative(path: str, images: Store, where: str) -> str:
    """Return a listed path relative to the root; a UserError naming the line when it is not beneath it."""
    local = isinstance(images, LocalStore)
    above = (str(images.root) if isinstance(images, LocalStore) else images.url).rstrip("/") + "/"
    inside = path.removeprefix(above)
    if local and inside != path:
        inside = inside.lstrip("/")
    if local and inside.startswith("/"):
        raise UserError(where, f"{path} lies outside {public_url(images.url)}", "use paths relative to the root")
    if "://" in inside or (local and ".." in PurePosixPath(inside).parts):
        raise UserError(where, f"{path} is no path beneath the root", "use paths relative to the root")
    # On S3 a key is what it is, however unlike a path: only what `find` puts before a path is none of it.
    return file_name(images, str(PurePosixPath(inside)) if local else inside.removeprefix("./"))
