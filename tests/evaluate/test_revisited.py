from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import UserError
from pipeline.evaluate.ground_truth import Relevant, Revisited, RevisitedQuery, parse_ground_truth
from pipeline.evaluate.revisited import positives_and_junk, score


def slow_ap(ranking: Sequence[object], positives: set[Any], junk: set[Any]) -> float:
    """The protocol step by step: take junk out, then add trapezoids."""
    clean = [image for image in ranking if image not in junk]
    ap, old_recall, old_precision, found = 0.0, 0.0, 1.0, 0
    for rank, image in enumerate(clean, start=1):
        found += image in positives
        recall, precision = found / len(positives), found / rank
        ap += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
    return ap


labels = st.lists(st.sampled_from(["easy", "hard", "junk", "other"]), min_size=1, max_size=14)


@given(labels, st.randoms(use_true_random=False))
def test_scores_equal_the_protocol_step_by_step(kinds: list[str], random) -> None:  # type: ignore[no-untyped-def]
    images = {kind: tuple(n for n, k in enumerate(kinds) if k == kind) for kind in ("easy", "hard", "junk")}
    query = RevisitedQuery(**images, box=None)
    ranking = list(range(len(kinds)))
    random.shuffle(ranking)
    truth = Revisited(imlist=tuple(map(str, ranking)), qimlist=("q",), gnd=(query,))
    scores = score([np.array(ranking)], truth)
    for protocol, found in scores.items():
        positives, junk = positives_and_junk(query, protocol)
        if len(positives):
            expected = slow_ap(ranking, set(positives.tolist()), set(junk.tolist()))
            assert found.mean_average_precision == pytest.approx(expected)
        else:
            assert found.queries == 0


@pytest.mark.parametrize("name", ["roxford5k", "rparis6k"])
def test_the_revisited_benchmarks_are_scored_to_the_digit(real_data: Path, golden_data: Path, name: str) -> None:
    truth = parse_ground_truth((real_data / "ground-truth" / f"gnd_{name}.json").read_bytes(), name)
    assert isinstance(truth, Revisited)
    rankings = []
    for number, query in enumerate(truth.gnd):
        i = np.arange(len(truth.imlist), dtype=np.float64)
        v = np.sin(12.9898 * i + 78.233 * number) * 43758.5453
        scored = v - np.floor(v)
        scored[list(query.easy)] += 0.35
        scored[list(query.hard)] += 0.2
        rankings.append(np.argsort(-scored, kind="stable"))
    found = score(rankings, truth)
    golden = json.loads((golden_data / f"revisited_{name}.json").read_text())
    for protocol, values in golden.items():
        assert found[protocol].mean_average_precision == pytest.approx(values["mAP"], rel=1e-9)
        for k in (1, 5, 10):
            assert found[protocol].precision[k] == pytest.approx(values[f"mP@{k}"], rel=1e-9)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_the_file(encoding: str) -> None:
    plain = parse_ground_truth('{"caf\u00e9.jpg": ["a.jpg"]}'.encode(encoding), "gt.json")
    assert isinstance(plain, Relevant)
    assert plain.relevant == {"caf\u00e9.jpg": frozenset({"a.jpg"})}


def test_both_forms_are_told_apart() -> None:
    plain = parse_ground_truth(b'{"q.jpg": ["a.jpg"]}', "gt.json")
    assert isinstance(plain, Relevant)
    assert plain.relevant == {"q.jpg": frozenset({"a.jpg"})}
    body = {"imlist": ["a"], "qimlist": ["q"], "gnd": [{"easy": [0], "hard": [], "junk": [], "bbx": [1, 2, 3, 4]}]}
    revisited = parse_ground_truth(json.dumps(body).encode(), "gt.json")
    assert isinstance(revisited, Revisited)
    assert revisited.gnd[0].box == (1.0, 2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\x80\x04pickle", "not JSON"),
        (b"[]", "no JSON object"),
        (b"{}", "no JSON object"),
        (b'{"q": ["a"], "q": ["b"]}', "'q' twice"),
        (b'{"q": "a"}', "query 'q'"),
        (b'{"q": [1]}', "query 'q'"),
        (b'{"imlist": ["a"], "qimlist": ["q"], "gnd": []}', "one entry per query"),
        (b'{"imlist": ["a"], "qimlist": ["q"], "gnd": [{"easy": [1], "hard": [], "junk": []}]}', r"gnd\[0\].*easy"),
        (b'{"imlist": ["a"], "qimlist": ["q"], "gnd": [{"easy": [], "hard": [], "junk": [], "bbx": 1}]}', "bbx"),
        (
            b'{"imlist": [], "qimlist": ["q"], "gnd": [{"easy": [], "hard": [], "junk": [], "bbx": [0, 0, 1, NaN]}]}',
            "bbx",
        ),
        (
            b'{"imlist": ["a"], "qimlist": ["q"], "gnd": [{"easy": [0], "hard": [], "junk": [0]}]}',
            "in easy and in junk",
        ),
        (b'{"imlist": 3, "qimlist": [], "gnd": []}', "imlist"),
    ],
)
def test_what_is_no_ground_truth_is_refused_where_it_is_wrong(body: bytes, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_ground_truth(body, "gt.json")
