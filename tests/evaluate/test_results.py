from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import UserError
from pipeline.evaluate import results
from pipeline.evaluate.results import Asked, Ranking, Results, ResultsWriter

ASKED = Asked(snapshot=7, index="ivfpq", descriptor="gem", images=9, level=-1, classes={"é": 3}, skipped=1, unclassed=2)


def ranking(query: str, count: int) -> Ranking:
    scores = np.linspace(1, 0, count, dtype=np.float32)
    return Ranking(query=query, keys=[f"k{n}" for n in range(count)], scores=scores)


@pytest.mark.parametrize("rows", [1, 5, 1000])
def test_rankings_come_back_as_they_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(results, "ROWS", rows)
    made = [ranking(f"q{n}", count) for n, count in enumerate((3, 9, 1, 4))]
    with ResultsWriter(tmp_path / "r.parquet", ASKED) as writer:
        for one in made:
            writer.add(one)
    opened = Results(tmp_path / "r.parquet", "r.parquet")
    assert opened.asked == ASKED
    read = list(opened.rankings())
    assert [(one.query, list(one.keys)) for one in read] == [(one.query, one.keys) for one in made]
    for one, other in zip(read, made, strict=True):
        np.testing.assert_array_equal(one.scores, other.scores)
    footer = pq.ParquetFile(tmp_path / "r.parquet").schema_arrow.metadata
    assert (footer[b"sightline.snapshot"], footer[b"sightline.index"]) == (b"7", b"ivfpq")


def test_what_was_not_written_to_the_end_holds_no_part_of_the_rest(tmp_path: Path) -> None:
    def broken() -> None:
        with ResultsWriter(tmp_path / "r.parquet", ASKED) as writer:
            writer.add(ranking("q", 2))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert list(Results(tmp_path / "r.parquet", "r").rankings()) == []


def test_rankings_of_another_program_are_read_without_a_footer_or_scores(tmp_path: Path) -> None:
    columns = {"key": ["a", "b", "c"], "query": ["q", "q", "p"], "rank": pa.array([1, 2, 1], pa.int64())}
    pq.write_table(pa.table(columns), tmp_path / "r.parquet")
    opened = Results(tmp_path / "r.parquet", "r")
    assert opened.asked == Asked()
    assert [(one.query, list(one.keys)) for one in opened.rankings()] == [("q", ["a", "b"]), ("p", ["c"])]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"query": ["q"], "rank": [1]}, "no column key"),
        ({"query": ["q", "p", "q"], "rank": [1, 1, 2], "key": ["a", "b", "c"]}, "two places"),
        ({"query": ["q", "q"], "rank": [2, 1], "key": ["a", "b"]}, "ranks 1, 2, 3"),
        ({"query": ["q", "q"], "rank": [0, 1], "key": ["a", "b"]}, "ranks 1, 2, 3"),
        ({"query": ["q", "q"], "rank": [1, 2], "key": ["a", "a"]}, "twice"),
    ],
)
def test_what_is_no_ranking_is_refused(tmp_path: Path, columns: dict[str, list[object]], words: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "r.parquet")
    with pytest.raises(UserError, match=words):
        list(Results(tmp_path / "r.parquet", "r").rankings())


def test_what_is_no_parquet_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.parquet").write_text("no")
    with pytest.raises(UserError, match="no Parquet"):
        Results(tmp_path / "r.parquet", "r")
    told = pa.schema([("query", pa.string())], metadata={"sightline.format": results.FORMAT, "sightline.asked": "[1]"})
    columns = told.append(pa.field("rank", pa.int32())).append(pa.field("key", pa.string()))
    pq.write_table(columns.empty_table(), tmp_path / "r.parquet")
    with pytest.raises(UserError, match="footer"):
        Results(tmp_path / "r.parquet", "r")
