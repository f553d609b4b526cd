"""Stored descriptors get other metadata only when the images are the same, in the same order."""

from __future__ import annotations

import hashlib

import numpy as np

from pipeline.core.types import DescriptorBatch, Image, Reject
from pipeline.stages.describe import Described
from pipeline.stages.reuse import with_metadata
from pipeline.table import ImageRow


def image(key: str, content: str, **metadata: str) -> Image:
    return Image(key=key, uri=f"/src/{key}", data=content.encode(), metadata=metadata)


def stored(**contents: str) -> Described:
    images = [
        ImageRow(key=key, uri=f"/old/{key}", width=4, height=2, sha256=hashlib.sha256(content.encode()).hexdigest())
        for key, content in contents.items()
    ]
    vectors = np.arange(2 * len(images), dtype=np.float32).reshape(-1, 2)
    rejects = [Reject(key="bad", uri="/old/bad", reason="is no image", bytes=3)]
    return Described(images=images, batch=DescriptorBatch.of_images(vectors), rejects=rejects)


def test_the_vectors_and_rejects_stay_and_the_metadata_is_that_of_now() -> None:
    before = stored(a="A", b="B")
    now = with_metadata(before, [image("a", "A", year="1"), image("bad", "xxx"), image("b", "B", year="2")])
    assert now is not None
    assert [(row.key, row.uri, dict(row.metadata)) for row in now.images] == [
        ("a", "/src/a", {"year": "1"}),
        ("b", "/src/b", {"year": "2"}),
    ]
    assert now.batch is before.batch
    assert now.rejects == before.rejects


def test_other_bytes_another_order_one_more_or_one_less_are_other_images() -> None:
    before = stored(a="A", b="B")
    assert with_metadata(before, [image("a", "A"), image("b", "other")]) is None
    assert with_metadata(before, [image("b", "B"), image("a", "A")]) is None
    assert with_metadata(before, [image("a", "A"), image("b", "B"), image("c", "C")]) is None
    assert with_metadata(before, [image("a", "A")]) is None
