"""Which passes are recorded, by a recorder that needs no GPU. Graphs of CUDA are in tests/gpu."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from pipeline.features.replay import Replays


class Recorder:
    """Recordings that overwrite their result, as graphs do; counts them."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.replayed = 0

    def __call__(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
        self.shapes.append(tuple(x.shape))
        made = torch.empty_like(function(x))

        def replay(x: Tensor) -> Tensor:
            self.replayed += 1
            return made.copy_(function(x))

        return replay


def double(x: Tensor) -> Tensor:
    return 2 * x


def test_a_shape_is_recorded_when_it_comes_again_and_again() -> None:
    recorder = Recorder()
    replays = Replays(recorder, after=3)
    results = [replays(double, torch.full((4,), float(number))) for number in range(6)]
    assert [float(made[0]) for made in results] == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0], "a result outlives the next replay"
    assert (recorder.shapes, recorder.replayed) == ([(4,)], 4)
    replays(double, torch.zeros(5))
    assert recorder.shapes == [(4,)]


def test_the_recording_that_was_used_longest_ago_makes_room() -> None:
    recorder = Recorder()
    replays = Replays(recorder, after=1, most=2)
    for size in (1, 2, 1, 3, 1, 2):
        replays(double, torch.zeros(size))
    assert recorder.shapes == [(1,), (2,), (3,), (2,)]


def test_what_cannot_be_recorded_is_computed_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(function: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    replays = Replays(refuse, after=1)
    with caplog.at_level(logging.WARNING, "sightline"):
        assert [float(replays(double, torch.ones(size)).sum()) for size in (1, 2, 1)] == [2.0, 4.0, 2.0]
    assert caplog.messages == ["passes are not recorded for replay: operation not permitted when stream is capturing"]


def test_threads_share_recordings_and_get_their_own_results() -> None:
    replays = Replays(Recorder(), after=2)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda n: replays(double, torch.full((8,), float(n))), range(200)))
    assert [float(one.mean()) for one in made] == [2.0 * n for n in range(200)]
