"""A text file of image paths, as DIR's ImageList: one path a line, relative to a root. Nothing beyond it is listed."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from pipeline.core.errors import NotFoundError, UserError
from pipeline.core.names import absolute_location, public_url
from pipeline.core.specs import NOT_IN_FINGERPRINT
from pipeline.core.storage import Store, open_store, split_location
from pipeline.core.text import decoded
from pipeline.sources import SourceSpec
from pipeline.sources._files import NamedFiles


def _full(root: str) -> str:
    return absolute_location(root) if root else root


class Spec(SourceSpec):
    """Paths relative to `root` (default: the folder that holds the list); blank lines and # lines are ignored."""

    packs: ClassVar[bool] = True

    root: Annotated[str, AfterValidator(_full)] = Field(default="", json_schema_extra=NOT_IN_FINGERPRINT)

    def open(self, location: str) -> NamedFiles:
        """Read the list; a UserError names the line that cannot be used."""
        store, name = split_location(location)
        shown = public_url(location)
        try:
            text = decoded(store.read(name), shown)
        except NotFoundError:
            raise UserError(shown, "does not exist", "check the path") from None
        images = self.files(location)
        names = [
            _relative(line.strip(), images.url, f"{shown} line {number}")
            for number, line in enumerate(text.splitlines(), start=1)
            if line.strip() and not line.startswith("#")
        ]
        return NamedFiles(images, names, self.match)

    def files(self, location: str) -> Store:
        """Return the root."""
        return open_store(self.root) if self.root else split_location(location)[0]


def _relative(path: str, root: str, where: str) -> str:
    """Return a listed path relative to the root; a UserError naming the line when it is not beneath it."""
    if path.startswith("/"):
        above = root.rstrip("/") + "/"
        if not path.startswith(above):
            raise UserError(where, f"{path} lies outside {public_url(root)}", "use paths relative to the root")
        path = path.removeprefix(above)
    if "://" in path or ".." in PurePosixPath(path).parts:
        raise UserError(where, f"{path} is no path beneath the root", "use paths relative to the root")
    return str(PurePosixPath(path))
