"""What systems leave beside people's files is told apart by name."""

from __future__ import annotations

import pytest

from pipeline.sources import is_system_file

SYSTEM = """
._000.jpg
a/._000.jpg
__MACOSX/a/000.jpg
a/__MACOSX/000.jpg
.DS_Store
a/Thumbs.db
a/THUMBS.DB
desktop.ini
photos/@eaDir/000.jpg/SYNOPHOTO_THUMB_M.jpg
.Trash-1000/files/000.jpg
.Trashes/501/000.jpg
.Spotlight-V100/000.jpg
.fseventsd/000.jpg
a/.thumbnails/normal/000.png
.AppleDouble/000.jpg
lost+found/000.jpg
$RECYCLE.BIN/S-1/$R1.jpg
System Volume Information/000.jpg
__MACOSX/
""".strip().splitlines()
PHOTOGRAPHS = """
000.jpg
.000.jpg
_000.jpg
.hidden/000.jpg
a/.b/000.jpg
trash/000.jpg
Trash-1000/000.jpg
thumbnails/000.jpg
MACOSX/000.jpg
a._b/000.jpg
lost and found/000.jpg
desktop.ini.jpg
""".strip().splitlines()


@pytest.mark.parametrize("path", SYSTEM)
def test_a_path_of_the_system_is_known(path: str) -> None:
    assert is_system_file(path)


@pytest.mark.parametrize("path", PHOTOGRAPHS)
def test_a_path_of_a_photograph_is_none(path: str) -> None:
    assert not is_system_file(path)
