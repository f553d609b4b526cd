"""Passes that run out of memory cost the images that do not fit, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from pipeline.core.stats import Stats
from pipeline.core.types import DescriptorBatch, Image
from pipeline.decode import Decoded
from pipeline.stages.describe import Describer, ExtractOptions
from pipeline.stages.memory import halved, is_memory

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


def test_what_is_decoded_ahead_is_bounded_by_what_the_extractor_says_it_takes() -> None:
    weighed: list[bytes] = []

    def weigh(data: bytes) -> int:
        weighed.append(data)
        return 1 << 30

    describer = Describer(Greedy(), torch.device("cpu"), 2, ExtractOptions(), Stats(), weigh=weigh)
    found = describer([Image(key=f"{n}", uri=f"u/{n}", data=b"5") for n in range(4)])
    assert (len(found.images), len(weighed)) == (4, 4)
