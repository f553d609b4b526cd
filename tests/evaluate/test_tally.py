from __future__ import annotations

import numpy as np
import pytest

from pipeline.core.errors import UserError
from pipeline.evaluate.average_precision import average_precision, score
from pipeline.evaluate.classes import Classes
from pipeline.evaluate.ground_truth import Relevant, Revisited, RevisitedQuery
from pipeline.evaluate.results import Ranking
from pipeline.evaluate.revisited import score as revisited_score
from pipeline.evaluate.tally import OUTSIDE, ClassTally, tally_of


def ranking(query: str, keys: list[str]) -> Ranking:
    return Ranking(query=query, keys=keys, scores=np.zeros(len(keys), np.float32))


def test_a_tally_by_keys_tells_what_scoring_at_once_tells() -> None:
    truth = {"q": frozenset({"a", "c"}), "p": frozenset({"b"}), "none": frozenset[str]()}
    found = {"q": ["b", "a", "c"], "p": ["b"], "none": ["a"]}
    tally = tally_of(Relevant(relevant=truth), {"a", "b", "c"})
    for query, keys in [*found.items(), ("stranger", ["a"])]:
        tally.add(ranking(query, keys))
    expected = score(found, truth)
    body = tally.body()
    assert (body["queries"], body["skipped"]) == (2, 1)
    assert (body["mAP"], body["P@1"]) == (expected.mean_average_precision, expected.precision_at_1)
    assert body["P@k"] == {"1": 0.5, "5": pytest.approx(0.3), "10": pytest.approx(0.15)}
    assert set(body["R@k"]) == {"1", "5", "10", "100"}
    assert set(body["nDCG@k"]) == {"10", "all"}
    assert tally.precisions() == {"": {"q": average_precision(found["q"], truth["q"]), "p": 1.0}}


def test_a_tally_by_the_revisited_protocol_tells_what_scoring_at_once_tells() -> None:
    gnd = (
        RevisitedQuery(easy=(0,), hard=(2,), junk=(1,), box=None),
        RevisitedQuery(easy=(), hard=(3,), junk=(), box=None),
    )
    truth = Revisited(imlist=("i0", "i1", "i2", "i3"), qimlist=("q0", "q1"), gnd=gnd)
    orders = [[1, 2, 0, 3], [0, 3, 1, 2]]
    tally = tally_of(truth, {"other.jpg", *(f"db/i{n}.png" for n in range(4))})
    for name, order in zip(("q1", "q0"), reversed(orders), strict=True):
        # Stems name images; those outside imlist are distractors.
        tally.add(ranking(f"folder/{name}.jpg", ["other.jpg", *(f"db/i{n}.png" for n in order)]))
    expected = revisited_score([np.array([OUTSIDE, *order]) for order in orders], truth)
    without = revisited_score([np.array(order) for order in orders], truth)
    assert expected["easy"].mean_average_precision != without["easy"].mean_average_precision
    body = tally.body()
    for protocol, scores in expected.items():
        assert body[protocol]["mAP"] == pytest.approx(scores.mean_average_precision)
        assert body[protocol]["queries"] == scores.queries
        assert body[protocol]["mP@5"] == pytest.approx(scores.precision[5])
    assert (body["ranked_of_imlist"], body["distractors"]) == (4, 1)
    assert set(tally.precisions()["easy"]) == {"q0"}
    assert set(tally.precisions()["hard"]) == {"q0", "q1"}


def test_the_others_of_a_class_are_relevant() -> None:
    classes = Classes.of(["x/1", "x/2", "x/3", "y/1", "y/2", "z/1"])
    tally = ClassTally(classes, skipped=1)
    tally.add(ranking("x/1", ["y/1", "x/3", "x/2"]))
    tally.add(ranking("y/2", ["y/1"]))
    tally.add(ranking("z/1", ["y/1"]))
    body = tally.body()
    assert (body["classes"], body["queries"], body["skipped"]) == (2, 2, 1)
    assert tally.precisions() == {"": {"x/1": pytest.approx((1 / 2 + 2 / 3) / 2), "y/2": 1.0}}


def test_images_that_do_not_count_take_no_rank_and_are_not_missed() -> None:
    counts = frozenset({"x/1", "x/2", "x/4", "y/1"})
    tally = ClassTally(Classes.of(counts), skipped=0, only=counts)
    tally.add(ranking("x/1", ["x/3", "y/1", "x/5", "x/2", "x/4"]))
    assert tally.precisions()[""]["x/1"] == average_precision(["y/1", "x/2", "x/4"], {"x/2", "x/4"})


def test_a_query_without_a_ranking_and_a_truth_without_positives_are_refused() -> None:
    tally = tally_of(Relevant(relevant={"q": frozenset("a"), "p": frozenset("b")}), {"a", "b"})
    tally.add(ranking("q", ["a"]))
    with pytest.raises(UserError, match="'p'"):
        tally.body()
    empty = tally_of(Relevant(relevant={"q": frozenset()}), {"a"})
    empty.add(ranking("q", ["a"]))
    with pytest.raises(UserError, match="no query with relevant"):
        empty.body()
