"""Names as paths: every key has one, no two share one, and a key that is a path keeps it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.export import hloc, kapture
from pipeline.export.paths import escapes, path_of

PLAIN = escapes()
PIECES = st.sampled_from(["/", ".", "..", "%", "2", "F", "25", "2C", ",", "\\", "a", "é", " ", "\0", "\n", "_"])
KEYS = st.lists(
    PIECES | st.sampled_from(["/global_descriptor", ".gfeat", "global_features.txt"]), min_size=1, max_size=9
)


def unescaped(name: str) -> str:
    return re.sub("%(25|2[CEF]|5[CF]|[01][0-9A-F]|7F)", lambda code: chr(int(code[1], 16)), name)


@given(KEYS.map("".join))
def test_a_name_is_a_relative_path_that_leads_back_to_its_key(key: str) -> None:
    for pattern in (PLAIN, hloc.ESCAPES, kapture.ESCAPES):
        name = path_of(key, pattern)
        assert not {"", ".", ".."} & set(name.split("/"))
        assert not set(name) & {"\0", "\n"}
        assert unescaped(name) == key


@pytest.mark.parametrize(
    "key", ["a.jpg", "a/b/c.jpg", "100%.jpg", "Caf%C3%A9%20au.jpg", "a..jpg", "...", ".hidden/x", "東京/é.png", "a%2f"]
)
def test_a_path_keeps_its_name(key: str) -> None:
    assert path_of(key, PLAIN) == path_of(key, hloc.ESCAPES) == path_of(key, kapture.ESCAPES) == key


def test_names_say_what_they_stand_for() -> None:
    assert path_of("/data/a.jpg", PLAIN) == "%2Fdata/a.jpg"
    assert path_of("../a//b/./c/", PLAIN) == "%2E%2E/a/%2Fb/%2E/c%2F"
    assert path_of("%2Fa", PLAIN) == "%252Fa"
    assert path_of("a/global_descriptor", hloc.ESCAPES) == "a/global%5Fdescriptor"
    assert path_of("Smith, J\\a.gfeat/b", kapture.ESCAPES) == "Smith%2C J%5Ca%2Egfeat/b"
    assert path_of("global_features.txt/b", kapture.ESCAPES) == "global_features%2Etxt/b"
