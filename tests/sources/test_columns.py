"""Which column of a table holds images: found where it is clear, named in the message where it is not."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pipeline.core.errors import ShardError
from pipeline.sources._columns import Columns, columns_of

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
OTHER = pa.struct([("data", pa.large_binary()), ("filename", pa.string()), ("height", pa.int32())])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"image": STRUCT, "mask": pa.binary(), "v": pa.list_(pa.float32())}, Columns(image="image", form="struct")),
        ({"x": pa.binary(), "label": pa.int64()}, Columns(image="x", form="bytes")),
        ({"mask": pa.binary(), "jpg": pa.large_binary()}, Columns(image="jpg", form="bytes")),
        ({"v": pa.list_(pa.float16()), "ids": pa.list_(pa.int64())}, Columns(image="v", form="vector")),
        ({"v": pa.list_(pa.float64(), 3), "images": pa.list_(STRUCT)}, Columns(image="v", form="vector")),
        ({"x": pa.binary_view(), "name": pa.string_view()}, Columns(image="x", form="bytes")),
        ({"x": pa.binary(9), "id": pa.int8()}, Columns(image="x", form="bytes")),
        ({"x": pa.dictionary(pa.int32(), pa.binary())}, Columns(image="x", form="bytes")),
        ({"images": pa.list_(STRUCT), "text": pa.string()}, Columns(image="images", form="struct", listed=True)),
        ({"images": pa.large_list(pa.large_binary())}, Columns(image="images", form="bytes", listed=True)),
        ({"v": pa.list_(pa.int8(), 4), "tokens": pa.list_(pa.int64())}, Columns(image="v", form="vector")),
        ({"v": pa.fixed_shape_tensor(pa.float32(), (4,))}, Columns(image="v", form="vector")),
    ],
)
def test_the_column_of_images_is_found(fields: dict[str, pa.DataType], expected: Columns) -> None:
    found = columns_of(pa.schema(list(fields.items())), "", "")
    assert (found.image, found.form, found.listed) == (expected.image, expected.form, expected.listed)


def test_a_struct_may_have_other_field_names() -> None:
    found = columns_of(pa.schema([("picture", OTHER), ("n", pa.int64())]), "", "")
    assert (found.data, found.path, found.names) == ("data", "filename", ["picture.filename"])
    assert columns_of(pa.schema([("image", STRUCT)]), "", "").names == ["image.path"]


def test_vectors_of_larger_integers_are_read_when_they_are_named() -> None:
    schema = pa.schema([("tokens", pa.list_(pa.int64())), ("text", pa.string())])
    with pytest.raises(ShardError, match="set image_column"):
        columns_of(schema, "", "")
    assert columns_of(schema, "tokens", "").form == "vector"


@pytest.mark.parametrize(
    ("image", "key", "words"),
    [
        ("", "", r"among one, two, n; set image_column"),
        ("n", "", r"no column 'n' of image bytes or of vectors, only one, two, n; set image_column"),
        ("one", "nine", r"no column 'nine', only one, two, n; set key_column"),
    ],
)
def test_what_is_not_clear_names_the_setting(image: str, key: str, words: str) -> None:
    schema = pa.schema([("one", pa.binary()), ("two", pa.binary()), ("n", pa.int64())])
    with pytest.raises(ShardError, match=words):
        columns_of(schema, image, key)


@pytest.mark.parametrize("image", ["", "image"])
@pytest.mark.parametrize("twice", ["image", "id"])
def test_a_column_whose_name_is_not_its_own_is_refused_in_words(twice: str, image: str) -> None:
    fields = [pa.field("image", pa.binary()), pa.field("id", pa.string())]
    schema = pa.schema([*fields, *(field for field in fields if field.name == twice), pa.field("x", pa.int64())])
    with pytest.raises(ShardError, match=f"has 2 columns named '{twice}'; give each a name of its own"):
        columns_of(schema, image, "id")
    assert columns_of(pa.schema([*fields, *(pa.field("x", pa.int64()) for _ in "ab")]), "", "id").image == "image"
