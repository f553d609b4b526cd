"""Passes that run out of memory cost the images that do not fit, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from pipeline.core.stats import Stats
from pipeline.core.types import DescriptorBatch, Image
from pipeline.decode import Decoded
from pipeline.stages.describe import Describer, ExtractOptions
from pipeline.stages.memory import MOST_PER_PASS, PIXELS_PER_PASS, PassSizes, free_bytes, halved, is_memory

ERRORS = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]
OTHERS = [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("Calculated padded input size per channel: (2 x 2). Kernel size: (3 x 3)"),
    ValueError("wrong"),
]


def limited(most: int, error: Exception, asked: list[int]) -> object:
    def function(items: Sequence[int]) -> list[int]:
        asked.append(len(items))
        if sum(items) > most:
            raise error
        return [10 * item for item in items]

    return function


@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_a_group_is_halved_until_it_fits_and_what_never_fits_has_no_result(error: Exception) -> None:
    asked: list[int] = []
    found = halved(limited(4, error, asked), [1, 1, 1, 9, 1, 1, 1, 1])  # type: ignore[arg-type]
    assert found == [10, 10, 10, None, 10, 10, 10, 10]
    assert asked == [8, 4, 2, 2, 1, 1, 4]


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_other_errors_are_passed_on_above_all_those_of_cuda_that_stick(error: Exception) -> None:
    assert not is_memory(error)
    with pytest.raises(type(error)):
        halved(limited(4, error, []), [9, 1])  # type: ignore[arg-type]


class Greedy:
    """Bytes "WIDTH" become pixels of that width; passes of more than 60 pixels in all have no memory."""

    dim = 1

    def prepare(self, data: bytes) -> Decoded:
        width = int(data)
        return Decoded(pixels=np.full((1, width, 3), width, np.uint8), width=width, height=1)

    def extract(self, images: Sequence[Decoded]) -> DescriptorBatch:
        if sum(image.pixels.shape[1] for image in images) > 60:
            raise MemoryError
        return DescriptorBatch.of_images(np.array([[image.width] for image in images], np.float32))


def test_an_image_that_no_pass_has_memory_for_is_left_unread_and_costs_nobody_else() -> None:
    describer = Describer(Greedy(), torch.device("cpu"), 2, ExtractOptions(batch=4), Stats())
    widths = [20, 80, 20, 20, 20, 20]
    items = [Image(key=f"{n}", uri=f"u/{n}", data=str(width).encode()) for n, width in enumerate(widths)]
    found = describer(items)
    assert [row.key for row in found.images] == ["0", "2", "3", "4", "5"]
    assert found.batch.vectors[:, 0].tolist() == [20.0] * 5
    (left,) = found.rejects
    assert (left.key, left.status, left.bytes) == ("1", "unread", 2)
    assert "memory on this machine" in left.reason


CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_a_group_that_was_halved_says_what_was_too_many() -> None:
    failed: list[int] = []
    assert halved(limited(4, MemoryError(), []), [1] * 10, failed.append) == [10] * 10  # type: ignore[arg-type]
    assert failed == [10, 5, 5]


@pytest.mark.parametrize(
    ("device", "batch", "free", "shape", "images"),
    [
        (CPU, 0, None, (768, 1024, 3), 1),
        (CPU, 0, None, (16, 16, 3), MOST_PER_PASS),
        (CPU, 7, None, (768, 1024, 3), 7),
        (CUDA, 0, None, (768, 1024, 3), 10),
        (CUDA, 0, 80 << 30, (768, 1024, 3), 10),
        (CUDA, 0, 8 << 30, (768, 1024, 3), 5),
        (CUDA, 0, 1 << 30, (768, 1024, 3), 1),
        (CUDA, 0, 8 << 30, (16, 16, 3), MOST_PER_PASS),
        (CUDA, 7, 1 << 30, (768, 1024, 3), 7),
    ],
)
def test_passes_are_as_large_as_pixels_and_free_memory_allow(
    device: torch.device, batch: int, free: int | None, shape: tuple[int, ...], images: int
) -> None:
    assert PIXELS_PER_PASS["cuda"] == 1 << 23
    assert PassSizes(device, batch, free).of(shape) == images


def test_only_a_gpu_is_asked_for_its_free_memory() -> None:
    assert free_bytes(CPU) is None


def test_what_had_no_memory_is_remembered_by_shape_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    sizes, one, other = PassSizes(CUDA), (768, 1024, 3), (512, 512, 3)
    with caplog.at_level(logging.WARNING, "sightline"):
        for count in (10, 5, 2):
            sizes.too_many(one, count)
        assert (sizes.of(one), sizes.of(other)) == (1, 32)
        sizes.too_many(other, 32)
    assert (sizes.of(one), sizes.of(other)) == (1, 16)
    (line,) = caplog.messages
    assert "10 image(s) of 1024x768 pixels: passes of this size take 5 from now on" in line


def test_later_passes_of_a_shape_begin_at_the_size_that_worked() -> None:
    asked: list[int] = []

    class Counting(Greedy):
        def extract(self, images: Sequence[Decoded]) -> DescriptorBatch:
            asked.append(len(images))
            return super().extract(images)

    describer = Describer(Counting(), CPU, 1, ExtractOptions(batch=6), Stats())
    found = describer([Image(key=f"{n}", uri=f"u/{n}", data=b"20") for n in range(12)])
    assert len(found.images) == 12
    assert asked[:3] == [6, 3, 3]
    assert max(asked[3:]) <= 3, "those that were grouped before are no larger either"


def test_what_is_decoded_ahead_is_bounded_by_what_the_extractor_says_it_takes() -> None:
    weighed: list[bytes] = []

    def weigh(data: bytes) -> int:
        weighed.append(data)
        return 1 << 30

    describer = Describer(Greedy(), torch.device("cpu"), 2, ExtractOptions(), Stats(), weigh=weigh)
    found = describer([Image(key=f"{n}", uri=f"u/{n}", data=b"5") for n in range(4)])
    assert (len(found.images), len(weighed)) == (4, 4)
