"""Columns of encoded images, or of vectors, and of metadata in Arrow schemas: which is which. Reads no rows.

Plain Arrow storage only: extension types are read as what they store, never interpreted; dictionaries as their values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from pipeline.core.errors import ContentError
from pipeline.core.metadata import Column

COLUMN_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes", "content", "data")
"""Names that a column of encoded images goes by when it is not a struct of bytes and path."""
PATH_NAMES = ("path", "file_name", "filename", "file_path", "name")
"""Fields that name an image in a struct whose bytes are not called "bytes"."""
Form = Literal["bytes", "struct", "vector"]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What to read of a table. image: the column of images or vectors; key: the column of names, "" for none.

    form: what a cell is, or each item of it where `listed`. data, path: fields of a struct; path is "" for none.
    """

    image: str
    key: str = ""
    form: Form
    listed: bool = False
    data: str = ""
    path: str = ""

    @property
    def read(self) -> list[str]:
        """Columns that hold images and their names."""
        return [self.image, self.key] if self.key else [self.image]

    @property
    def names(self) -> list[str]:
        """Columns, or fields of structs, that hold names alone; [] where rows are numbered."""
        if self.key:
            return [self.key]
        return [f"{self.image}.{self.path}"] if self.path and not self.listed else []


def columns_of(schema: pa.Schema, image: str, key: str) -> Columns:
    """Return the column of images or vectors, and that of keys if one is wanted; ContentError lists what there is."""
    _expect_one(schema, image)
    column = image_column(schema, image)
    if key and key not in schema.names:
        raise ContentError(f"has no column {key!r}, only {', '.join(schema.names)}; set key_column to one of them")
    _expect_one(schema, column, key)
    kind = plain(schema.field(column).type)
    if is_vector(kind):
        return Columns(image=column, key=key, form="vector")
    listed = _is_list(kind)
    kind = plain(kind.value_type) if listed else kind
    if _is_binary(kind):
        return Columns(image=column, key=key, form="bytes", listed=listed)
    data = _data_field(kind)
    names = [field.name for field in kind]
    named = ("path",) if data == "bytes" else PATH_NAMES
    path = next((name for name in named if name in names and name != data), "")
    return Columns(image=column, key=key, form="struct", listed=listed, data=data, path=path)


def image_column(schema: pa.Schema, wanted: str) -> str:
    """Return the column of images, or else of vectors; ContentError lists the columns where it is not clear which.

    Structs of bytes and path go first, then plain bytes, then vectors of floats, then whatever else can hold images.
    """
    shown = ", ".join(schema.names)
    if wanted:
        usable = wanted in schema.names and any(test(schema.field(wanted).type) for test in _USABLE)
        if not usable:
            raise ContentError(
                f"has no column {wanted!r} of image bytes or of vectors, only {shown}; set image_column to one"
            )
        return wanted
    for tests in (_FIRST, _SECOND):
        candidates = ([field for field in schema if test(field.type)] for test in tests)
        there = next((fields for fields in candidates if fields), [])
        named = [name for name in COLUMN_NAMES for field in there if field.name == name and not is_vector(field.type)]
        if len(there) == 1 or named:
            return str(there[0].name) if len(there) == 1 else named[0]
    raise ContentError(
        f"has no single column of image bytes among {shown}; set image_column (in a recipe file: [source] "
        'image_column = "NAME")'
    )


def metadata_columns(schema: pa.Schema, columns: Sequence[Column]) -> list[str]:
    """Return the columns, or fields of structs, to read for metadata; ContentError lists what there is without some."""
    missing = [column.path for column in columns if not _is_there(schema, column.path)]
    if missing:
        raise ContentError(f"has no column {', '.join(map(repr, missing))} of metadata, only {', '.join(schema.names)}")
    return [column.path for column in columns]


def plain(kind: pa.DataType) -> pa.DataType:
    """Return what a type stores: without extension types and dictionaries."""
    while isinstance(kind, pa.BaseExtensionType | pa.DictionaryType):
        kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind.value_type
    return kind


def is_vector(kind: pa.DataType) -> bool:
    """Tell whether cells are lists of numbers."""
    kind = plain(kind)
    return _is_list(kind) and bool(_is_number(plain(kind.value_type)))


def _expect_one(schema: pa.Schema, *names: str) -> None:
    """Raise ContentError where several columns have one of these names, as tables that were joined may."""
    for name in names:
        if schema.names.count(name) > 1:
            raise ContentError(f"has {schema.names.count(name)} columns named {name!r}; give each a name of its own")


def _is_there(schema: pa.Schema, path: str) -> bool:
    """Tell whether there is one column of that name, or of the name before a dot and fields of a struct after it."""
    if path in schema.names:
        return int(schema.get_field_index(path)) >= 0
    first, _, rest = path.partition(".")
    place = schema.get_field_index(first)
    if not rest or place < 0 or not pa.types.is_struct(plain(schema.field(place).type)):
        return False
    return _is_there(pa.schema(list(plain(schema.field(place).type))), rest)


def _is_list(kind: pa.DataType) -> bool:
    lists = ("is_list", "is_large_list", "is_fixed_size_list", "is_list_view", "is_large_list_view")
    return any(getattr(pa.types, test)(kind) for test in lists)


def _is_binary(kind: pa.DataType) -> bool:
    tests = ("is_binary", "is_large_binary", "is_binary_view", "is_fixed_size_binary")
    return any(getattr(pa.types, test)(kind) for test in tests)


def _is_text(kind: pa.DataType) -> bool:
    return any(getattr(pa.types, test)(kind) for test in ("is_string", "is_large_string", "is_string_view"))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _data_field(kind: pa.DataType) -> str:
    """Return the field of a struct that holds encoded bytes: "bytes", or else the only one that can; "" for none."""
    if not pa.types.is_struct(kind):
        return ""
    if any(field.name == "bytes" and (_is_binary(plain(field.type)) or _is_text(plain(field.type))) for field in kind):
        return "bytes"
    there = [field.name for field in kind if _is_binary(plain(field.type))]
    return str(there[0]) if len(there) == 1 else ""


def _is_bytes_and_path(kind: pa.DataType) -> bool:
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    return _data_field(kind) == "bytes"


def _is_bytes(kind: pa.DataType) -> bool:
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_floats(kind: pa.DataType) -> bool:
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    return is_vector(kind) and bool(pa.types.is_floating(kind.value_type))


def _is_image(kind: pa.DataType) -> bool:
    kind = plain(kind)
    return _is_binary(kind) or bool(_data_field(kind))


def _is_images(kind: pa.DataType) -> bool:
    kind = plain(kind)
    return _is_list(kind) and _is_image(kind.value_type)


def _is_small_integers(kind: pa.DataType) -> bool:
    """Tell whether cells are quantised vectors: lists of larger integers are rather tokens or counts."""
    kind = plain(kind)
    return is_vector(kind) and plain(kind.value_type) in (pa.int8(), pa.uint8())


Test = Callable[[pa.DataType], bool]
_FIRST: tuple[Test, ...] = (_is_bytes_and_path, _is_bytes, _is_floats)
_SECOND: tuple[Test, ...] = (_is_image, _is_images, _is_small_integers)
"""What was recognised first stays so: a default never changes what an existing recipe reads."""
_USABLE: tuple[Test, ...] = (_is_image, _is_images, is_vector)
