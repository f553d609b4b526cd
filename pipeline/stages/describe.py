"""Images in, vectors out: decoding ahead, batches of equal shape, several forward passes side by side.

One Describer serves a worker for its lifetime. While the last passes of one shard run, the next shard is read and
decoded. Rows are in the order of the source, whatever ends first.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

import torch

from pipeline.core.errors import BadImageError
from pipeline.core.prefetch import ordered_map
from pipeline.core.stats import Level, Stats
from pipeline.core.types import DescriptorBatch, Image, Reject
from pipeline.decode import Decoded, pixels_of
from pipeline.extract import Extractor
from pipeline.table import ImageRow

Group = list[tuple[int, Decoded]]
"""Images of equal shape, with their rows."""

BYTES_PER_PIXEL = 12
"""RGB bytes of an image at full size, of its converted copy and of what the decoder holds meanwhile."""
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
    ahead. overlap: read and decode the next shard while the last passes of one run and its file is written.
    """

    device: str = "auto"
    batch: int = 0
    decode_threads: int = 0
    in_flight: int = 512 << 20
    overlap: bool = True


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a shard gave: images in source order with their descriptors, and what was not indexed.

    kept: the local descriptors that each image's global one was made of, where they are kept.
    """

    images: list[ImageRow]
    batch: DescriptorBatch
    rejects: list[Reject]
    kept: list[DescriptorBatch] | None = None


@dataclass
class _Seen:
    """What was read of a shard so far: usable images with their encoded sizes, in order, and the others."""

    images: list[tuple[ImageRow, int]] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)


class Describer:
    """See the module. Thread-safe: a second shard waits until the first has been read to its end."""

    def __init__(
        self, extractor: Extractor, device: torch.device, threads: int, options: ExtractOptions, stats: Stats
    ) -> None:
        self._extractor, self._device, self._options, self._stats = extractor, device, options, stats
        # How a convolution is split among threads changes its last bits. One thread per forward pass, and several
        # passes side by side, give the same values for any number of threads and workers, and are quicker besides.
        passes = threads if device.type == "cpu" else PASSES_ON_GPU
        self._passes = ThreadPoolExecutor(passes, "forward", initializer=torch.set_num_threads, initargs=(1,))
        self._decoding = options.decode_threads or threads
        self._decoders = ThreadPoolExecutor(self._decoding, "decode")
        self._ahead = 4 * passes
        self._reading = threading.Lock()
        self._queue = Level()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Raise at the next image in whatever thread reads one."""
        self._stopped.set()

    def __call__(self, items: Iterable[Image | Reject]) -> Described:
        """Describe the images of a shard."""
        seen = _Seen()
        found: dict[int, DescriptorBatch] = {}
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
        empty = sorted(row for row, part in found.items() if not len(part.vectors))
        rejects = seen.rejects + [
            Reject(key=image.key, uri=image.uri, reason="no local features were found", bytes=size, sha256=image.sha256)
            for image, size in (seen.images[row] for row in empty)
        ]
        live = [row for row in range(len(seen.images)) if row not in set(empty)]
        batch = DescriptorBatch.joined([found[row] for row in live], self._extractor.dim)
        return Described(images=[seen.images[row][0] for row in live], batch=batch, rejects=rejects)

    def _groups(self, items: Iterable[Image | Reject], seen: _Seen) -> Generator[Group]:
        """Yield batches; the next shard's turn comes when this one's images have all been decoded."""
        with self._reading:
            yield from self._batches(self._decoded(items, seen))

    def _forward(self, group: Group) -> tuple[tuple[int, ...], list[DescriptorBatch]]:
        rows, pixels = zip(*group, strict=True)
        self._stats.add("passes")
        self._stats.add("queued", self._queue.take(len(group)))
        with self._stats.timed("forward_seconds"), self._stats.spanned("device_seconds"):
            batch = self._extractor.extract(pixels)
        return rows, [batch.of(place) for place in range(len(rows))]

    def _decoded(self, items: Iterable[Image | Reject], seen: _Seen) -> Iterator[tuple[int, Decoded]]:
        """Yield (row, pixels) of each usable image in order; rows and rejects are noted as they come."""
        prepared = ordered_map(
            self._prepare,
            self._timed(_without_duplicates(items)),
            pool=self._decoders,
            ahead=4 * self._decoding,
            budget=self._options.in_flight,
            weigh=lambda item: BYTES_PER_PIXEL * pixels_of(item.data) if isinstance(item, Image) else 0,
        )
        for item in prepared:
            if isinstance(item, Reject):
                seen.rejects.append(item)
            else:
                image, size, pixels = item
                seen.images.append((image, size))
                yield len(seen.images) - 1, pixels

    def _timed(self, items: Iterator[Image | Reject]) -> Iterator[Image | Reject]:
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

    def _prepare(self, item: Image | Reject) -> tuple[ImageRow, int, Decoded] | Reject:
        if isinstance(item, Reject):
            return item
        self._stats.add("bytes", len(item.data))
        digest = hashlib.sha256(item.data).hexdigest()
        try:
            with self._stats.timed("decode_seconds"):
                pixels = self._extractor.prepare(item.data)
        except BadImageError as error:
            return Reject(key=item.key, uri=item.uri, reason=str(error), bytes=len(item.data), sha256=digest)
        size = {"width": pixels.width, "height": pixels.height}
        row = ImageRow(key=item.key, uri=item.uri, **size, sha256=digest, metadata=item.metadata)
        self._queue.put()
        return row, len(item.data), pixels

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


def choose_device(name: str) -> torch.device:
    """Return the device to compute on; "auto" takes the GPU that this process may see, if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def _without_duplicates(items: Iterable[Image | Reject]) -> Iterator[Image | Reject]:
    """The first of equal keys counts; the others become duplicates, whatever they hold."""
    seen: set[str] = set()
    for item in items:
        if item.key in seen:
            size = len(item.data) if isinstance(item, Image) else item.bytes
            digest = hashlib.sha256(item.data).hexdigest() if isinstance(item, Image) else item.sha256
            reason = "another image of the shard has the same key"
            yield Reject(key=item.key, uri=item.uri, reason=reason, bytes=size, status="duplicate", sha256=digest)
        else:
            seen.add(item.key)
            yield item
