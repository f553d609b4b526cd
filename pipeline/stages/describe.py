"""Images in, vectors out: decoding ahead, batches of equal shape, several forward passes side by side.

One Describer serves a worker for its lifetime. While the last passes of one shard run, the next shard is read and
decoded. Rows are in the order of the source, whatever ends first.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import torch

from pipeline.core.errors import BadImageError
from pipeline.core.limited_pool import LimitedPool
from pipeline.core.prefetch import ordered_map
from pipeline.core.stats import SKIPPED, Level, Stats
from pipeline.core.types import DescriptorBatch, Image, Reject
from pipeline.decode import Decoded
from pipeline.extract import Extractor
from pipeline.stages import limits
from pipeline.stages.decode_memory import decode_budget, held, weight
from pipeline.stages.memory import halved
from pipeline.stages.repeats import Repeat, Repeats
from pipeline.table import ImageRow

Group = list[tuple[int, Decoded]]
"""Images of equal shape, with their rows."""

PASSES_ON_GPU = 2
"""One copies and launches while the other computes."""
PIXELS_PER_PASS = {"cpu": 1 << 17, "cuda": 1 << 23}
"""Pixels that a forward pass is filled up to. On a CPU maps of one photograph leave the caches as it is: measured, one
at a time is quickest, and only small images gain from company."""
MOST_PER_PASS = 64


@dataclass(frozen=True, kw_only=True)
class ExtractOptions:
    """How a worker uses its machine; none of it changes what it writes.

    batch: images of equal shape per forward pass; 0 chooses by their size. in_flight: bytes of decoded images held
    ahead. decode_bytes: memory of images being decoded; 0 is a share of the node's, see decode_memory.py. overlap: read
    and decode the next shard while the last passes of one run and its file is written.
    image_seconds: time limit of reading an image, of decoding it, and of its forward pass; shard_seconds: of a shard,
    beside what its size adds. 0 is no limit; see limits.py.
    """

    device: str = "auto"
    batch: int = 0
    decode_threads: int = 0
    in_flight: int = 512 << 20
    decode_bytes: int = 0
    overlap: bool = True
    image_seconds: float = limits.IMAGE_SECONDS
    shard_seconds: float = limits.SHARD_SECONDS


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a shard gave: images in source order with their descriptors, and what was not indexed.

    sizes: the images' encoded sizes in bytes; none where descriptors were taken up from an earlier run.
    """

    images: list[ImageRow]
    batch: DescriptorBatch
    rejects: list[Reject]
    sizes: list[int] = field(default_factory=list)


@dataclass
class _Seen:
    """What was read of a shard so far: usable images with their encoded sizes, in order, and the others."""

    repeats: Repeats
    images: list[tuple[ImageRow, int]] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)


class Describer:
    """See the module. Thread-safe: a second shard waits until the first has been read to its end.

    weigh: about how many bytes of memory preparing an encoded image takes.
    """

    def __init__(
        self,
        extractor: Extractor,
        device: torch.device,
        threads: int,
        options: ExtractOptions,
        stats: Stats,
        *,
        weigh: Callable[[bytes], int] = len,
    ) -> None:
        self._weigh = weigh
        self._extractor, self._device, self._options, self._stats = extractor, device, options, stats
        # How a convolution is split among threads changes its last bits. One thread per forward pass, and several
        # passes side by side, give the same values for any number of threads and workers, and are quicker besides.
        passes = threads if device.type == "cpu" else PASSES_ON_GPU
        hung = limits.of_passes(options.image_seconds)
        self._passes = LimitedPool(passes, "forward", hung, initializer=lambda: torch.set_num_threads(1))
        self._decoding = options.decode_threads or threads
        self._decoders = LimitedPool(self._decoding, "decode", limits.of_decoding(options.image_seconds))
        self._decode_bytes = options.decode_bytes or decode_budget(self._decoding)
        self._ahead = 4 * passes
        self._reading = threading.Lock()
        self._alone = threading.Lock()
        self._queue = Level()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Raise at the next image in whatever thread reads one."""
        self._stopped.set()

    def walk(self, items: Iterable[Image | Reject]) -> None:
        """Read the images of a shard to its end, and describe none."""
        for _ in self._timed(iter(items)):
            pass

    def __call__(self, items: Iterable[Image | Reject], *, last_counts: bool = False) -> Described:
        """Describe the images of a shard. last_counts: of equal keys the last one counts, not the first."""
        seen = _Seen(repeats=Repeats(last_counts))
        found: dict[int, DescriptorBatch | None] = {}
        with closing(self._groups(items, seen)) as groups:
            forwarded = ordered_map(
                self._forward,
                groups,
                pool=self._passes,
                ahead=self._ahead,
                budget=self._options.in_flight,
                weigh=lambda group: sum(image.pixels.nbytes for _, image in group),
            )
            for rows, parts in forwarded:
                found.update(zip(rows, parts, strict=True))
        repeated, superseded = seen.repeats.settled(seen.images)
        for what, count in seen.repeats.skipped.items():
            self._stats.add(f"{SKIPPED}{what}", count)
        usable, rejects = _sorted_out(seen, found, superseded)
        rejects += [*repeated, *superseded.values()]
        live = sorted(usable)
        batch = DescriptorBatch.joined([usable[row] for row in live], self._extractor.dim)
        images, sizes = [seen.images[row][0] for row in live], [seen.images[row][1] for row in live]
        return Described(images=images, batch=batch, rejects=rejects, sizes=sizes)

    def _groups(self, items: Iterable[Image | Reject], seen: _Seen) -> Generator[Group]:
        """Yield batches; the next shard's turn comes when this one's images have all been decoded."""
        with self._reading:
            yield from self._batches(self._decoded(items, seen))

    def _forward(self, group: Group) -> tuple[tuple[int, ...], list[DescriptorBatch | None]]:
        rows, pixels = zip(*group, strict=True)
        self._stats.add("passes")
        self._stats.add("queued", self._queue.take(len(group)))
        with self._stats.timed("forward_seconds"), self._stats.spanned("device_seconds"):
            return rows, halved(self._extracted, pixels)

    def _extracted(self, pixels: Sequence[Decoded]) -> list[DescriptorBatch]:
        batch = self._extractor.extract(pixels)
        return [batch.of(place) for place in range(len(pixels))]

    def _decoded(self, items: Iterable[Image | Reject], seen: _Seen) -> Iterator[tuple[int, Decoded]]:
        """Yield (row, pixels) of each usable image in order; rows and rejects are noted as they come."""
        prepared = ordered_map(
            self._prepare,
            self._timed(seen.repeats.admitted(items)),
            pool=self._decoders,
            ahead=4 * self._decoding,
            budget=self._decode_bytes,
            weigh=lambda item: weight(item, self._weigh),
            held=held,
        )
        for item in prepared:
            if isinstance(item, Reject):
                seen.repeats.note(item.key, -1)
                seen.rejects.append(item)
            elif isinstance(item, Repeat):
                seen.repeats.add(item)
            else:
                image, size, pixels = item
                seen.repeats.note(image.key, len(seen.images))
                seen.images.append((image, size))
                yield len(seen.images) - 1, pixels

    def _timed(self, items: Iterator[Image | Reject | Repeat]) -> Iterator[Image | Reject | Repeat]:
        """Count the time that is spent waiting for the store."""
        while True:
            started = time.perf_counter()
            item = next(items, None)
            self._stats.add("read_seconds", time.perf_counter() - started)
            if item is None:
                return
            if self._stopped.is_set():
                raise InterruptedError("the run is ending")
            yield item

    def _prepare(self, item: Image | Reject | Repeat) -> tuple[ImageRow, int, Decoded] | Reject | Repeat:
        if isinstance(item, Reject | Repeat):
            return item
        self._stats.add("bytes", len(item.data))
        digest = hashlib.sha256(item.data).hexdigest()
        try:
            with self._stats.timed("decode_seconds"):
                pixels = self._pixels(item.data)
        except BadImageError as error:
            return Reject(key=item.key, uri=item.uri, reason=str(error), bytes=len(item.data), sha256=digest)
        except MemoryError:
            reason = "not enough memory to decode it"
            return Reject(key=item.key, uri=item.uri, reason=reason, bytes=len(item.data), status="unread")
        size = {"width": pixels.width, "height": pixels.height}
        row = ImageRow(key=item.key, uri=item.uri, **size, sha256=digest, metadata=item.metadata, span=item.span)
        self._queue.put()
        return row, len(item.data), pixels

    def _pixels(self, data: bytes) -> Decoded:
        try:
            return self._extractor.prepare(data)
        except MemoryError:
            # Others decode at the same time; those that need more than was left try again one after the other.
            with self._alone:
                return self._extractor.prepare(data)

    def _batches(self, decoded: Iterable[tuple[int, Decoded]]) -> Iterator[Group]:
        """Group images of equal shape; what waits for company is bounded like what is in flight."""
        waiting: dict[tuple[int, ...], Group] = {}
        held = 0
        for row, image in decoded:
            shape = image.pixels.shape
            group = waiting.setdefault(shape, [])
            group.append((row, image))
            held += image.pixels.nbytes
            if len(group) >= self._per_pass(shape):
                held -= len(group) * image.pixels.nbytes
                yield waiting.pop(shape)
            elif held > self._options.in_flight:
                largest = max(waiting, key=lambda shape: len(waiting[shape]) * math.prod(shape))
                held -= sum(pixels.pixels.nbytes for _, pixels in waiting[largest])
                yield waiting.pop(largest)
        yield from waiting.values()

    def _per_pass(self, shape: tuple[int, ...]) -> int:
        if self._options.batch:
            return self._options.batch
        pixels = PIXELS_PER_PASS.get(self._device.type, PIXELS_PER_PASS["cuda"])
        return max(1, min(MOST_PER_PASS, pixels // (shape[0] * shape[1])))


def _sorted_out(
    seen: _Seen, found: dict[int, DescriptorBatch | None], superseded: Container[int]
) -> tuple[dict[int, DescriptorBatch], list[Reject]]:
    """Return the descriptors of the rows that count and have any, and the rejects, those that were read among them."""
    parts: dict[int, DescriptorBatch] = {}
    rejects = list(seen.rejects)
    for number, (image, size) in enumerate(seen.images):
        part = found[number]
        if number in superseded:
            continue
        if part is None:
            reason = "not enough memory on this machine for its forward pass"
            rejects.append(Reject(key=image.key, uri=image.uri, reason=reason, bytes=size, status="unread"))
        elif not len(part.vectors):
            reason = "no local features were found"
            rejects.append(Reject(key=image.key, uri=image.uri, reason=reason, bytes=size, sha256=image.sha256))
        else:
            parts[number] = part
    return parts, rejects
