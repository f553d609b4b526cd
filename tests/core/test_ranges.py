"""RangeFile against a file in memory: whatever is sought and read, the bytes are those, and no request is wasted."""

from __future__ import annotations

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import TransientError
from pipeline.core.ranges import RangeFile

BLOCK = 8


class Ranges:
    """Serves ranges of some bytes and notes them; `fail` answers a range once with an error."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked: list[tuple[int, int]] = []
        self.fail: set[tuple[int, int]] = set()

    def __call__(self, start: int, end: int) -> bytes:
        self.asked.append((start, end))
        if (start, end) in self.fail:
            self.fail.remove((start, end))
            raise TransientError("timed out")
        return self.data[start:end]

    def file(self) -> RangeFile:
        return RangeFile(self, len(self.data), block=BLOCK)


def content(size: int) -> bytes:
    """Bytes that no two places within reach share, so that a wrong block shows."""
    return bytes((place * 7 + place // 251) % 256 for place in range(size))


SEEK = st.tuples(st.just("seek"), st.integers(-70, 70), st.sampled_from([io.SEEK_SET, io.SEEK_CUR, io.SEEK_END]))
READ = st.tuples(st.just("read"), st.integers(-1, 30), st.just(0))
INTO = st.tuples(st.just("readinto"), st.integers(0, 30), st.just(0))
ALL = st.tuples(st.just("readall"), st.just(0), st.just(0))


@settings(deadline=None)
@given(st.integers(0, 5 * BLOCK + 1), st.lists(SEEK | READ | INTO | ALL, max_size=12))
@example(4 * BLOCK, [("read", BLOCK, 0), ("read", BLOCK, 0), ("seek", 0, io.SEEK_SET), ("read", BLOCK, 0)])
@example(4 * BLOCK, [("read", 2 * BLOCK, 0), ("seek", 1, io.SEEK_SET), ("read", 1, 0), ("seek", 17, 0), ("read", 3, 0)])
def test_it_reads_as_a_file_in_memory(size: int, steps: list[tuple[str, int, int]]) -> None:
    data = content(size)
    ranges = Ranges(data)
    model = io.BytesIO(data)
    with ranges.file() as file:
        for step, number, whence in steps:
            if step == "seek":
                # Files in memory refuse a place before the beginning where this one stops at it.
                base = (0, model.tell(), size)[whence]
                assert file.seek(number, whence) == model.seek(max(0, base + number))
            elif step == "read":
                assert file.read(number) == model.read(number)
            elif step == "readinto":
                here, there = bytearray(number), bytearray(number)
                assert file.readinto(here) == model.readinto(there)
                assert here == there
            else:
                assert file.readall() == model.read()
            assert file.tell() == model.tell()
    for start, end in ranges.asked:
        assert start % BLOCK == 0, "ranges are whole blocks"
        assert start < end <= size, "nothing beyond the end is wanted"
        assert end - start == BLOCK or end == size


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 3 * BLOCK + 1])
def test_a_file_read_from_end_to_end_asks_for_each_block_once_and_holds_two(size: int) -> None:
    ranges = Ranges(content(size))
    with ranges.file() as file:
        got = b"".join(iter(lambda: file.read(3), b""))
    assert got == ranges.data
    assert sorted(ranges.asked) == [(start, min(size, start + BLOCK)) for start in range(0, size, BLOCK)]


def test_a_step_back_gives_the_block_before_and_not_the_one_on_its_way() -> None:
    ranges = Ranges(content(6 * BLOCK))
    with ranges.file() as file:
        file.read(2 * BLOCK)  # block 2 is on its way
        for place in (0, 3 * BLOCK, BLOCK, 2 * BLOCK, 5 * BLOCK, 4 * BLOCK, 0):
            file.seek(place)
            assert file.read(BLOCK) == ranges.data[place : place + BLOCK]


def test_single_reads_far_apart_fetch_nothing_ahead() -> None:
    ranges = Ranges(content(9 * BLOCK))
    with ranges.file() as file:
        for block in (7, 2, 5, 2):
            file.seek(block * BLOCK + 3)
            file.read(2)
        file.read(2)
    assert ranges.asked == [(block * BLOCK, (block + 1) * BLOCK) for block in (7, 2, 5, 2)]


def test_a_range_that_failed_is_fetched_again_by_the_next_read() -> None:
    ranges = Ranges(content(4 * BLOCK))
    ranges.fail = {(0, BLOCK), (2 * BLOCK, 3 * BLOCK)}
    with ranges.file() as file:
        with pytest.raises(TransientError):
            file.read(BLOCK)
        assert file.tell() == 0
        assert file.read(2 * BLOCK) == ranges.data[: 2 * BLOCK]
        with pytest.raises(TransientError):  # it was on its way
            file.read(BLOCK)
        assert file.read() == ranges.data[2 * BLOCK :]


def test_a_file_that_is_closed_waits_for_nothing_and_reads_nothing() -> None:
    begun, hold = threading.Event(), threading.Event()
    data = content(4 * BLOCK)

    def slow(start: int, end: int) -> bytes:
        if start == 2 * BLOCK:
            begun.set()
            hold.wait(30)
        return data[start:end]

    file = RangeFile(slow, len(data), block=BLOCK)
    file.read(2 * BLOCK)
    assert begun.wait(30)
    closing = threading.Thread(target=file.close)
    closing.start()
    closing.join(30)
    assert not closing.is_alive()
    hold.set()
    with pytest.raises(ValueError, match="closed"):
        file.read(1)


def test_files_side_by_side_do_not_mix_their_blocks() -> None:
    def read(number: int) -> bool:
        data = content(40 * BLOCK + number)

        def fetch(start: int, end: int) -> bytes:
            time.sleep(0)
            return data[start:end]

        with RangeFile(fetch, len(data), block=BLOCK) as file:
            return file.read() == data

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(8)))


def test_it_is_a_file_to_whoever_wraps_it_and_its_blocks_are_large() -> None:
    data = content(100)
    ranges = Ranges(data)
    with io.BufferedReader(ranges.file()) as file:
        assert (file.readable(), file.seekable()) == (True, True)
        file.seek(50)
        assert file.read(20) == data[50:70]
    ranges.asked.clear()
    with RangeFile(ranges, len(data)) as file:
        assert file.read() == data
        assert (file.read(), file.read(3)) == (b"", b"")
    assert ranges.asked == [(0, 100)], "one request where one block is enough"


def test_a_range_by_itself_is_one_request_and_nothing_is_asked_for_beyond_the_end() -> None:
    ranges = Ranges(content(20))
    with ranges.file() as file:
        file.seek(3)
        assert file.read_at(0, 5) == ranges.data[:5]
        assert file.read_at(1, 2) == ranges.data[1:3]
        assert file.read_at(18, 5) == ranges.data[18:]
        for offset, size in ((20, 1), (25, 3), (4, 0), (-1, 5), (0, 0)):
            assert file.read_at(offset, size) == b""
        assert file.tell() == 3
    assert ranges.asked == [(0, 5), (1, 3), (18, 20)]


def test_what_waits_to_be_read_ahead_is_not_read_once_the_file_is_closed() -> None:
    begun, hold, asked = threading.Event(), threading.Event(), list[int]()
    data, others = content(9 * BLOCK), set(threading.enumerate())

    def slow(start: int, end: int) -> bytes:
        asked.append(start // BLOCK)
        if start == 2 * BLOCK:
            begun.set()
            hold.wait(30)
        return data[start:end]

    file = RangeFile(slow, len(data), block=BLOCK)
    file.read(2 * BLOCK)
    assert begun.wait(30)
    file.seek(5 * BLOCK)
    file.read(2 * BLOCK)  # block 7 waits behind block 2
    ours = set(threading.enumerate()) - others
    file.close()
    hold.set()
    for thread in ours:
        thread.join(30)
    assert asked == [0, 1, 2, 5, 6]


@pytest.mark.parametrize("size", [BLOCK + 1, 2 * BLOCK])
def test_the_next_block_is_on_its_way_before_it_is_read_and_so_is_the_last(size: int) -> None:
    last, data = threading.Event(), content(size)

    def fetch(start: int, end: int) -> bytes:
        if start == BLOCK:
            last.set()
        return data[start:end]

    with RangeFile(fetch, size, block=BLOCK) as file:
        file.read(1)
        assert last.wait(30), "nobody has read so far yet"
