"""Images in, vectors out: decoding ahead, batches of equal shape, several forward passes side by side.

One Describer serves a worker for its lifetime. While the last passes of one shard run, the next shard is read and
decoded; how images become passes is in passes.py. Rows are in the order of the source, whatever ends first.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import torch

from pipeline.core.errors import BadImageError
from pipeline.core.limited_pool import LimitedPool
from pipeline.core.prefetch import ordered_map
from pipeline.core.stats import SKIPPED, Stats
from pipeline.core.types import DescriptorBatch, Image, Reject
from pipeline.decode import Decoded
from pipeline.extract import Extractor, device_clock
from pipeline.stages import limits
from pipeline.stages.decode_memory import decode_budget, held, weight
from pipeline.stages.memory import PASSES_ON_GPU, PassSizes, free_bytes, halved
from pipeline.stages.passes import Batching, Passes
from pipeline.stages.repeats import Repeat, Repeats
from pipeline.table import ImageRow

SHARDS_THAT_WAIT = 3
"""Shards that a worker on a GPU has read and keeps for company of their last images, beside the one being read and the
next. Images per pass, longest:1024, by tests.benchmarks.batching: shapes like the museum's 2.4 instead of 1.3."""


@dataclass(frozen=True, kw_only=True)
class ExtractOptions:
    """How a worker uses its machine; none of it changes what it writes.

    batch: images of equal shape per forward pass; 0 chooses by their size. in_flight: bytes of decoded images held
    ahead. waiting: on a GPU, bytes of those that wait for others of their shape. decode_bytes: memory of images being
    decoded; 0 is a share of the node's, see decode_memory.py. graphs: replay the passes of pooled descriptors that
    recur as CUDA graphs. overlap: read and decode the next shard while the last passes of one run and its file is
    written. image_seconds: time limit of reading an image, of decoding it, and of its forward pass; shard_seconds: of a
    shard, beside what its size adds. 0 is no limit; see limits.py.
    """

    device: str = "auto"
    batch: int = 0
    decode_threads: int = 0
    in_flight: int = 512 << 20
    decode_bytes: int = 0
    waiting: int = 2 << 30
    graphs: bool = False
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

    weigh: about how many bytes of memory preparing an encoded image takes. `depth`: so many shards at a time keep it
    busy.
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
        if options.graphs and hasattr(extractor, "use_graphs"):
            extractor.use_graphs()
        self._weigh, self._clock = weigh, device_clock(extractor)
        self._extractor, self._device, self._options, self._stats = extractor, device, options, stats
        # How a convolution is split among threads changes its last bits. One thread per forward pass, and several
        # passes side by side, give the same values for any number of threads and workers, and are quicker besides.
        passes = threads if device.type == "cpu" else PASSES_ON_GPU
        # What else is in a pass can change the last bits of a descriptor, too. On a CPU, where company does not pay, it
        # is of the same shard; on a GPU full passes are worth more.
        shared = device.type != "cpu"
        self.depth = 2 + SHARDS_THAT_WAIT if shared else 2
        self._sizes = PassSizes(device, options.batch, free_bytes(device))
        hung = limits.of_passes(options.image_seconds)
        self._passes: Passes[DescriptorBatch | None] = Passes(
            self._forward,
            LimitedPool(passes, "forward", hung, initializer=lambda: torch.set_num_threads(1)),
            Batching(
                per_pass=self._sizes.of,
                budget=max(options.waiting, options.in_flight) if shared else options.in_flight,
                in_flight=options.in_flight,
                ahead=4 * passes,
                shared=shared,
                later=SHARDS_THAT_WAIT,
            ),
        )
        self._decoding = options.decode_threads or threads
        self._decoders = LimitedPool(self._decoding, "decode", limits.of_decoding(options.image_seconds))
        self._decode_bytes = options.decode_bytes or decode_budget(self._decoding)
        self._reading = threading.Lock()
        self._alone = threading.Lock()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Raise at the next image in whatever thread reads one, and in those that wait for passes."""
        self._stopped.set()
        self._passes.stop()

    def walk(self, items: Iterable[Image | Reject]) -> None:
        """Read the images of a shard to its end, and describe none."""
        for _ in self._timed(iter(items)):
            pass

    def __call__(self, items: Iterable[Image | Reject], *, last_counts: bool = False) -> Described:
        """Describe the images of a shard. last_counts: of equal keys the last one counts, not the first."""
        seen = _Seen(repeats=Repeats(last_counts))
        with self._passes.shard() as passes:
            # The next shard's turn comes when the images of this one have all been decoded.
            with self._reading, closing(self._decoded(items, seen)) as decoded:
                for row, pixels in decoded:
                    passes.add(row, pixels)
            found = passes.results()
        repeated, superseded = seen.repeats.settled(seen.images)
        for what, count in seen.repeats.skipped.items():
            self._stats.add(f"{SKIPPED}{what}", count)
        usable, rejects = _sorted_out(seen, found, superseded)
        rejects += [*repeated, *superseded.values()]
        live = sorted(usable)
        batch = DescriptorBatch.joined([usable[row] for row in live], self._extractor.dim)
        images, sizes = [seen.images[row][0] for row in live], [seen.images[row][1] for row in live]
        return Described(images=images, batch=batch, rejects=rejects, sizes=sizes)

    def _forward(self, images: Sequence[Decoded]) -> list[DescriptorBatch | None]:
        self._stats.add("passes")
        self._stats.add("passed", len(images))
        self._stats.add("queued", self._passes.backlog)
        shape = images[0].pixels.shape
        # On a GPU passes span the host's work, too: copies, launches, and waiting for each other.
        span = "device_seconds" if self._clock is None else "pass_seconds"
        with self._stats.timed("forward_seconds"), self._stats.spanned(span):
            # Fewer fit than when the images met, if another pass of their shape ran out of memory meanwhile.
            most = self._sizes.of(shape)
            made = [
                found
                for start in range(0, len(images), most)
                for found in halved(
                    self._extracted, images[start : start + most], lambda count: self._sizes.too_many(shape, count)
                )
            ]
        if self._clock is not None:
            self._stats.add("device_seconds", self._clock())
        return made

    def _extracted(self, pixels: Sequence[Decoded]) -> list[DescriptorBatch]:
        batch = self._extractor.extract(pixels)
        return [batch.of(place) for place in range(len(pixels))]

    def _decoded(self, items: Iterable[Image | Reject], seen: _Seen) -> Generator[tuple[int, Decoded]]:
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
        return row, len(item.data), pixels

    def _pixels(self, data: bytes) -> Decoded:
        try:
            return self._extractor.prepare(data)
        except MemoryError:
            # Others decode at the same time; those that need more than was left try again one after the other.
            with self._alone:
                return self._extractor.prepare(data)


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
