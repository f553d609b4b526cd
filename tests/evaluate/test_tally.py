from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import UserError
from pipeline.evaluate.average_precision import average_precision, score
from pipeline.evaluate.classes import Classes
from pipeline.evaluate.ground_truth import Relevant, Revisited, RevisitedQuery
from pipeline.evaluate.results import Ranking
from pipeline.evaluate.revisited import PROTOCOLS
from pipeline.evaluate.revisited import score as revisited_score
from pipeline.evaluate.tally import OUTSIDE, ClassTally, tally_of
from tests.evaluate.test_revisited import slow_ap


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


FOLDERS = st.sampled_from(["", "a/", "b/", "x.tar/a/"])
KEYS = st.lists(st.builds("{}{}.jpg".format, FOLDERS, st.integers(0, 4)), min_size=1, max_size=10, unique=True)


@given(KEYS, st.data())
def test_average_precision_is_that_of_the_protocol_with_every_other_image_a_negative(
    keys: list[str], data: st.DataObject
) -> None:
    imlist = data.draw(st.lists(st.sampled_from(keys), min_size=1, unique=True))
    kinds = data.draw(
        st.lists(st.sampled_from(["easy", "hard", "junk", ""]), min_size=len(imlist), max_size=len(imlist))
    )
    order = data.draw(st.permutations(keys))
    lists = {kind: tuple(n for n, mine in enumerate(kinds) if mine == kind) for kind in ("easy", "hard", "junk")}
    truth = Revisited(imlist=tuple(imlist), qimlist=("q",), gnd=(RevisitedQuery(**lists, box=None),))
    tally = tally_of(truth, set(keys))
    tally.add(ranking("q", list(order)))
    for protocol, found in tally.precisions().items():
        easy, hard, junk = (({imlist[n] for n in lists[kind]}) for kind in ("easy", "hard", "junk"))
        positives = {"easy": easy, "medium": easy | hard, "hard": hard}[protocol]
        ignored = junk | {"easy": hard, "medium": set(), "hard": easy}[protocol]
        assert set(found) == ({"q"} if positives else set())
        for value in found.values():
            assert value == pytest.approx(slow_ap(list(order), positives, ignored))
            assert 0 <= value <= 1


@given(KEYS, st.data())
def test_every_score_lies_between_nought_and_one(keys: list[str], data: st.DataObject) -> None:
    names = data.draw(st.lists(st.builds("{}{}{}".format, FOLDERS, st.integers(0, 6), st.sampled_from(["", ".jpg"]))))
    names = list(dict.fromkeys(names)) or ["nothing"]
    numbers = data.draw(st.lists(st.sampled_from(["easy", "hard", "junk"]), min_size=len(names), max_size=len(names)))
    lists = {kind: tuple(n for n, mine in enumerate(numbers) if mine == kind) for kind in ("easy", "hard", "junk")}
    forms = (
        Revisited(imlist=tuple(names), qimlist=("q",), gnd=(RevisitedQuery(**lists, box=None),)),
        Relevant(relevant={"q": frozenset(names)}),
    )
    for truth in forms:
        try:
            tally = tally_of(truth, set(keys), allow_unknown=True)
            tally.add(ranking("q", data.draw(st.permutations(keys))))
            body = tally.body()
        except UserError as error:
            assert "\n" not in str(error)
            continue
        for scores in [body] if "mAP" in body else [body[protocol] for protocol in PROTOCOLS]:
            assert scores["mAP"] is None or 0 <= scores["mAP"] <= 1
            assert (scores["mAP"] is None) == ("why" in scores)
        json.dumps(body, allow_nan=False)


def test_ground_truth_of_which_little_is_known_is_refused_with_examples() -> None:
    keys = {f"x.tar/{n}.jpg" for n in range(40)}
    every = frozenset(f"{n}.jpg" for n in range(40))
    words = r"names 40 of 40 images that are unknown, for example '0.jpg', .*; known are such as 'x.tar/0.jpg'"
    with pytest.raises(UserError, match=words) as caught:
        tally_of(Relevant(relevant={"q": every}), keys)
    assert "--allow-unknown" in str(caught.value)
    allowed = tally_of(Relevant(relevant={"q": every}), keys, allow_unknown=True)
    allowed.add(ranking("q", sorted(keys)))
    body = allowed.body()
    assert (body["mAP"], body["unknown"]["images"], len(body["unknown"]["examples"])) == (0.0, 40, 3)
    few = frozenset([*keys, "gone.jpg"])
    tally = tally_of(Relevant(relevant={"q": few}), keys)
    tally.add(ranking("q", sorted(keys)))
    assert tally.body()["unknown"] == {"queries": 0, "images": 1, "of": 41, "examples": ["gone.jpg"]}
    assert tally.body()["mAP"] == pytest.approx(40 / 41), "what is unknown counts as missed"
    # Of cut rankings it cannot be known what else there is.
    tally_of(Relevant(relevant={"q": frozenset(["x.tar/1.jpg", "far.jpg"])}), keys, whole=False)
    with pytest.raises(UserError, match="1 of 1"):
        tally_of(Relevant(relevant={"q": frozenset(["far.jpg"])}), keys, whole=False)
    revisited = Revisited(
        imlist=("1", "nowhere"), qimlist=("q",), gnd=(RevisitedQuery(easy=(0,), hard=(), junk=(), box=None),)
    )
    with pytest.raises(UserError, match="1 of 2 images that are unknown, for example 'nowhere'"):
        tally_of(revisited, keys)


def test_queries_without_a_ranking_do_not_count_when_that_is_allowed() -> None:
    tally = tally_of(Relevant(relevant={"q": frozenset("a"), "p": frozenset("b")}), {"a", "b"}, allow_unknown=True)
    tally.add(ranking("q", ["a", "b"]))
    assert (tally.body()["mAP"], tally.body()["queries"], tally.body()["unknown"]["queries"]) == (1.0, 1, 1)


def test_a_ranking_of_a_closer_name_counts() -> None:
    gnd = (RevisitedQuery(easy=(0,), hard=(), junk=(), box=None),)
    truth = Revisited(imlist=("i", "j"), qimlist=("a/1",), gnd=gnd)
    right, wrong = ranking("a/1.jpg", ["i", "j"]), ranking("b/1.jpg", ["j", "i"])
    for order in ([right, wrong], [wrong, right]):
        tally = tally_of(truth, {"i", "j"})
        for one in order:
            tally.add(one)
        assert tally.body()["easy"]["mAP"] == 1.0
    with pytest.raises(UserError, match=r"may mean 'a/1.jpg' or 'x/a/1.png'"):
        tally.add(ranking("x/a/1.png", ["i"]))


def test_protocols_without_positives_are_null_and_say_why() -> None:
    truth = Revisited(imlist=("i",), qimlist=("q",), gnd=(RevisitedQuery(easy=(0,), hard=(), junk=(), box=None),))
    tally = tally_of(truth, {"i"})
    tally.add(ranking("q", ["i"]))
    body = tally.body()
    assert body["hard"] == {
        "mAP": None, "queries": 0, "mP@1": None, "mP@5": None, "mP@10": None,
        "why": "no query has positives in this protocol",
    }  # fmt: skip
    assert "nan" not in json.dumps(body).lower()
    nothing = Revisited(imlist=("i",), qimlist=("q",), gnd=(RevisitedQuery(easy=(), hard=(), junk=(0,), box=None),))
    empty = tally_of(nothing, {"i"})
    empty.add(ranking("q", ["i"]))
    with pytest.raises(UserError, match="no query with positives"):
        empty.body()
