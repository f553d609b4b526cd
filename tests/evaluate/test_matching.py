"""Which image a name in ground truth means; what is not clear is refused."""

from __future__ import annotations

import pytest

from pipeline.core.errors import UserError
from pipeline.evaluate.matching import Names, missing


@pytest.mark.parametrize(
    ("names", "keys", "expected"),
    [
        (["a/1.jpg", "b/1.jpg"], ["b/1.jpg", "a/1.jpg"], {"b/1.jpg": 1, "a/1.jpg": 0}),
        (["a/1.jpg", "b/1.jpg"], ["x.tar/b/1.jpg", "x.tar/a/1.jpg"], {"x.tar/b/1.jpg": 1, "x.tar/a/1.jpg": 0}),
        (["a/1", "b/1"], ["x.tar/a/1.jpg", "x.tar/b/1.png"], {"x.tar/a/1.jpg": 0, "x.tar/b/1.png": 1}),
        (["1", "2"], ["db/1.jpg", "db/2.jpg", "db/3.jpg"], {"db/1.jpg": 0, "db/2.jpg": 1}),
        (["jpg/1.jpg"], ["1.png"], {"1.png": 0}),
        (["1.jpg"], ["1.jpg", "distractors/1.jpg", "1.png"], {"1.jpg": 0}),
        (["a/1.jpg", "b/1.jpg"], ["a/1.jpg", "b/1.jpg", "far/1.jpg"], {"a/1.jpg": 0, "b/1.jpg": 1}),
        (["a.b", "a.c"], ["a.b.jpg", "a.c.jpg"], {"a.b.jpg": 0, "a.c.jpg": 1}),
        (["1"], ["2.jpg"], {}),
    ],
)
def test_the_closest_key_is_meant(names: list[str], keys: list[str], expected: dict[str, int]) -> None:
    for order in (keys, keys[::-1]):
        found = Names(names, "imlist")
        assert found.match(order) == expected
        assert missing(found, found.match(order)) == [n for p, n in enumerate(names) if p not in expected.values()]


@pytest.mark.parametrize(
    ("names", "keys", "words"),
    [
        (["1"], ["a/1.jpg", "b/1.jpg"], "'1' in imlist may mean 'a/1.jpg' or 'b/1.jpg'"),
        (["1.jpg"], ["a/1.jpg", "b/1.jpg"], "'1.jpg' in imlist may mean 'a/1.jpg' or 'b/1.jpg'"),
        (["1"], ["1.jpg", "1.png"], "may mean '1.jpg' or '1.png'"),
        (["a/1.jpg", "b/1.jpg"], ["1.jpg"], "'a/1.jpg' and 'b/1.jpg' in imlist both mean '1.jpg'"),
    ],
)
def test_what_is_not_clear_names_both(names: list[str], keys: list[str], words: str) -> None:
    with pytest.raises(UserError) as caught:
        Names(names, "imlist").match(keys)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_stands_once() -> None:
    with pytest.raises(UserError, match="'a' twice in imlist"):
        Names(["a", "b", "a"], "imlist")
