"""The engine: batches by shape, two shards at a time, rows in the order of the source, whatever ends first."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from pipeline.core.errors import BadImageError
from pipeline.core.limited_pool import HungError
from pipeline.core.stats import Stats, told
from pipeline.core.types import DescriptorBatch, Image, Reject
from pipeline.decode import Decoded
from pipeline.stages.describe import Described, Describer, ExtractOptions

CPU = torch.device("cpu")


@dataclass
class Toy:
    """Bytes "H W VALUE" become pixels of that shape; the vector is the value. Remembers what it was asked."""

    dim: int = 1
    decode_seconds: float = 0.0
    forward_seconds: float = 0.0
    passes: list[tuple[tuple[int, ...], ...]] = field(default_factory=list)
    decoded: list[float] = field(default_factory=list)

    def prepare(self, data: bytes) -> Decoded:
        height, width, value = map(int, data.split())
        time.sleep(self.decode_seconds)
        if value < 0:
            raise BadImageError("negative")
        self.decoded.append(time.perf_counter())
        pixels = np.full((height, width, 3), value, np.uint8)
        return Decoded(pixels=pixels, width=width, height=height)

    def extract(self, images: Sequence[Decoded]) -> DescriptorBatch:
        self.passes.append(tuple(image.pixels.shape for image in images))
        time.sleep(self.forward_seconds * len(images) * (1 + images[0].pixels[0, 0, 0] % 3))
        vectors = np.array([[image.pixels[0, 0, 0]] for image in images], np.float32)
        return DescriptorBatch(vectors=vectors, image_row=np.arange(len(images)))


def items(*texts: str) -> Iterator[Image | Reject]:
    for number, text in enumerate(texts):
        yield Image(key=f"{number}", uri=f"u/{number}", data=text.encode())


def describer(toy: Toy, threads: int = 2, **options: int) -> Describer:
    return Describer(toy, CPU, threads, ExtractOptions(**options), Stats())  # type: ignore[arg-type]


def values(described: Described) -> list[float]:
    return [float(value) for value in described.batch.vectors[:, 0]]


def test_images_of_equal_shape_share_a_pass_and_rows_stay_in_order() -> None:
    toy = Toy(forward_seconds=0.002)
    texts = [f"{8 + number % 2} 8 {number}" for number in range(24)]
    found = describer(toy, batch=4)(items(*texts))
    assert values(found) == list(range(24))
    assert [row.key for row in found.images] == [str(number) for number in range(24)]
    assert all(len(set(shapes)) == 1 and len(shapes) == 4 for shapes in toy.passes)


def test_bad_images_are_rejects_and_take_no_row() -> None:
    found = describer(Toy())(items("8 8 1", "8 8 -1", "8 8 3"))
    assert (values(found), [reject.reason for reject in found.rejects]) == ([1.0, 3.0], ["negative"])


def test_company_is_chosen_by_size() -> None:
    toy = Toy()
    describer(toy)(items(*["400 400 1"] * 3, *["16 16 2"] * 70))
    assert sorted(len(shapes) for shapes in toy.passes) == [1, 1, 1, 6, 64]


def test_what_waits_for_company_is_bounded() -> None:
    toy = Toy()
    texts = [f"16 {16 + number} 1" for number in range(40)]
    assert len(values(describer(toy, batch=8, in_flight=3000)(items(*texts)))) == 40


def test_the_next_shard_is_decoded_while_the_last_passes_run() -> None:
    toy = Toy(forward_seconds=0.03)
    one = describer(toy, batch=1)
    ends: dict[int, float] = {}

    def work(number: int) -> Described:
        found = one(items(*[f"8 8 {10 * number + n}" for n in range(6)]))
        ends[number] = time.perf_counter()
        return found

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(work, (0, 1)))
    assert [values(part) for part in found] == [[float(10 * shard + n) for n in range(6)] for shard in (0, 1)]
    assert sorted(toy.decoded)[6] < min(ends.values()), "the second began before the first had ended"


def test_an_error_of_one_shard_leaves_the_next_alone() -> None:
    one = describer(Toy())

    def broken() -> Iterator[Image | Reject]:
        yield from items("8 8 1")
        raise OSError("the source went away")

    with pytest.raises(OSError, match="went away"):
        one(broken())
    assert values(one(items("8 8 7"))) == [7.0]


def test_a_worker_that_is_stopped_gives_up_at_the_next_image() -> None:
    one, begun = describer(Toy()), threading.Event()

    def endless() -> Iterator[Image | Reject]:
        while True:
            begun.set()
            yield from items("8 8 1")

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(one, endless())
        begun.wait(10)
        one.stop()
        with pytest.raises(InterruptedError):
            running.result(timeout=10)


def test_statistics_say_what_limited_the_work() -> None:
    stats = Stats()
    toy = Toy(decode_seconds=0.02)
    with stats.spanned("busy_seconds"):
        Describer(toy, CPU, 1, ExtractOptions(), stats)(items(*["300 300 1"] * 10))
    found = told(stats.take())
    assert found["idle_share"] > 0.5
    assert found["decode_seconds"] > 0.15
    assert found["queue_depth"] < 1


@dataclass
class Forgetful(Toy):
    """Has too little memory for some values: at the first try, or at every one."""

    short: dict[int, int] = field(default_factory=dict)

    def prepare(self, data: bytes) -> Decoded:
        value = int(data.split()[2])
        if self.short.get(value, 0) > 0:
            self.short[value] -= 1
            raise MemoryError
        return super().prepare(data)


def test_too_little_memory_for_an_image_is_tried_again_and_then_no_property_of_it() -> None:
    toy = Forgetful(short={1: 1, 2: 99})
    items = [Image(key=f"{n}", uri="", data=f"2 2 {n}".encode()) for n in range(4)]
    described = Describer(toy, CPU, 2, ExtractOptions(), Stats())(items)
    assert [image.key for image in described.images] == ["0", "1", "3"]
    assert [(reject.key, reject.status) for reject in described.rejects] == [("2", "unread")]


@dataclass
class Hanging(Toy):
    """Does not come back from some values: of decoding, or of a forward pass."""

    decoding: tuple[int, ...] = ()
    passing: tuple[int, ...] = ()
    never: threading.Event = field(default_factory=threading.Event)

    def prepare(self, data: bytes) -> Decoded:
        if int(data.split()[2]) in self.decoding:
            self.never.wait()
        return super().prepare(data)

    def extract(self, images: Sequence[Decoded]) -> DescriptorBatch:
        if any(int(image.pixels[0, 0, 0]) in self.passing for image in images):
            self.never.wait()
        return super().extract(images)


def test_an_image_that_is_not_decoded_in_time_is_no_reject_and_the_others_are_described() -> None:
    toy = Hanging(decoding=(1, 3))
    described = Describer(toy, CPU, 1, ExtractOptions(image_seconds=0.2), Stats())(
        items(*(f"8 8 {number}" for number in range(6)))
    )
    toy.never.set()
    assert values(described) == [0.0, 2.0, 4.0, 5.0]
    assert [(reject.key, reject.status, reject.reason) for reject in described.rejects] == [
        ("1", "unread", "not decoded within its time limit"),
        ("3", "unread", "not decoded within its time limit"),
    ]


def test_a_forward_pass_that_does_not_come_back_shows_a_broken_process() -> None:
    toy = Hanging(passing=(2,))
    one = Describer(toy, CPU, 2, ExtractOptions(image_seconds=0.1, batch=2), Stats())
    with pytest.raises(HungError, match=r"a forward pass of 2 images did not end within 0.2 s \(--image-timeout\)"):
        one(items(*(f"8 8 {number}" for number in range(6))))
    toy.never.set()


def test_a_pass_over_many_images_may_take_as_long_as_they_may_together() -> None:
    toy = Toy(forward_seconds=0.02)
    found = Describer(toy, CPU, 1, ExtractOptions(image_seconds=0.15, batch=8), Stats())(items(*["8 8 0"] * 16))
    assert len(values(found)) == 16
    assert min(len(shapes) for shapes in toy.passes) * toy.forward_seconds > 0.15


OTHER = torch.device("meta")
"""A device that is no CPU, for the engine's decisions: the toy computes wherever it is."""


@pytest.mark.parametrize(("device", "passes"), [(CPU, 25), (OTHER, 10)])
def test_on_a_gpu_images_of_all_shards_in_flight_share_passes(device: torch.device, passes: int) -> None:
    toy = Toy()
    one = Describer(toy, device, 2, ExtractOptions(), Stats())
    texts = [[f"8 {8 + n % 5} {10 * shard + n}" for n in range(10)] for shard in range(5)]
    all_there = threading.Barrier(5)

    def describe(shard: list[str]) -> Described:
        all_there.wait(10)
        return one(delayed(shard))

    def delayed(shard: list[str]) -> Iterator[Image | Reject]:
        time.sleep(0.2)
        yield from items(*shard)

    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(describe, texts))
    assert [values(part) for part in found] == [[float(text.split()[2]) for text in shard] for shard in texts]
    assert len(toy.passes) == passes


def test_on_a_gpu_the_error_of_one_shard_leaves_those_it_shares_passes_with_alone() -> None:
    @dataclass
    class Poisoned(Toy):
        def extract(self, images: Sequence[Decoded]) -> DescriptorBatch:
            if any(image.pixels[0, 0, 0] == 13 for image in images):
                raise ValueError("13")
            return super().extract(images)

    one = Describer(Poisoned(), OTHER, 2, ExtractOptions(), Stats())

    def work(shard: int) -> list[float] | str:
        try:
            return values(one(items(*[f"8 8 {3 * shard + n}" for n in range(3)])))
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(one.depth) as pool:
        found = list(pool.map(work, range(8)))
    assert found == ["13" if shard == 4 else [3.0 * shard + n for n in range(3)] for shard in range(8)]
