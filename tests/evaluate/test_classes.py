from __future__ import annotations

import pytest

from pipeline.evaluate.classes import Classes, class_of


@pytest.mark.parametrize(
    ("key", "level", "expected"),
    [
        ("apple/1.jpg", -1, "apple"),
        ("train/apple/1.jpg", -1, "apple"),
        ("train/apple/1.jpg", 1, "train"),
        ("train/apple/1.jpg", 2, "apple"),
        ("train/apple/1.jpg", -2, "train"),
        ("a.tar/apple/1.jpg", -1, "apple"),
        ("a.tar/1.jpg", -1, "a.tar"),
        ("1.jpg", -1, ""),
        ("1.jpg", 1, ""),
        ("apple/1.jpg", 2, ""),
        ("apple/1.jpg", -2, ""),
    ],
)
def test_the_class_is_a_folder_of_the_key(key: str, level: int, expected: str) -> None:
    assert class_of(key, level) == expected


def test_classes_are_counted_over_shards_and_loose_images_are_in_none() -> None:
    classes = Classes.of(["a.tar/x/1", "b.tar/x/2", "b.tar/y/1", "loose"])
    assert classes.sizes == {"x": 2, "y": 1}
    assert [classes.size_of(key) for key in ("c.tar/x/9", "b.tar/y/1", "loose")] == [2, 1, 0]
