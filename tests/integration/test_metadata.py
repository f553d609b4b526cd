"""Metadata the whole way: from side members and columns into descriptor files, results and conditions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import cli
from jobs.compact import CompactOptions, compact
from jobs.delete import EditOptions, delete
from jobs.recipe import RecipeOptions
from jobs.verify import verify
from pipeline.core.errors import UserError
from pipeline.search.engine import SearchIndex, SearchOptions
from pipeline.stages.describe import ExtractOptions
from tests.builders import QUICK, images, jpeg, run, tar_bytes, write_files
from tests.integration.test_local import KEPT, LOCAL, asked, files_of, quiet, textures

LICENSES = ("cc0", "by", None)
DECLARED = "license:string,year:int64:taken.year,caption:string:txt"


def side(number: int) -> bytes:
    return json.dumps({"license": LICENSES[number % 3], "taken": {"year": 2000 + number}}).encode()


def described(files: dict[str, bytes]) -> dict[str, bytes]:
    """Images with JSON beside them, before or after, and a text beside every other one."""
    out: dict[str, bytes] = {}
    for name, data in files.items():
        stem, number = name.rpartition(".")[0], int(name.rpartition(".")[0])
        group = {name: data, f"{stem}.json": side(number)}
        out |= dict(reversed(group.items())) if number % 2 else {**group, f"{stem}.txt": f"number {number}".encode()}
    return out


def about(number: int) -> dict[str, Any]:
    caption = None if number % 2 else f"number {number}"
    return {"license": LICENSES[number % 3], "year": 2000 + number, "caption": caption}


def collection(folder: Path, shards: int = 3) -> Path:
    parts = {f"{n}.tar": tar_bytes(described(images(8, 8 * n))) for n in range(shards)}
    return write_files(folder, parts)


def told(root: Path) -> dict[str, dict[str, Any]]:
    return {row.key: dict(row.metadata) for reader in files_of(root) for row in reader.images()}


RECIPES = {
    "plain": replace(QUICK, metadata=DECLARED),
    "whitened by a sample": replace(QUICK, metadata=DECLARED, whiten="pca", dims=8),
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_every_image_has_its_own_whatever_ends_first(tmp_path: Path, recipe: RecipeOptions) -> None:
    source = collection(tmp_path / "src")
    expected = {f"{n // 8}.tar/{n:04d}.jpg": about(n) for n in range(24)}
    digests = []
    for number, options in enumerate((ExtractOptions(), ExtractOptions(batch=1, decode_threads=4, overlap=False))):
        report = run(source, tmp_path / f"root{number}", recipe=recipe, extract=options)
        assert told(tmp_path / f"root{number}") == expected
        shares = {name: count / report.stats["images"] for name, count in report.stats.items() if "null" in name}
        assert shares == {"null_license": pytest.approx(1 / 3), "null_year": 0, "null_caption": 0.5}
        folder = tmp_path / f"root{number}" / "descriptors" / report.recipe.descriptor_id
        digests.append(sorted(path.read_bytes() for path in folder.glob("*.parquet")))
    assert digests[0] == digests[1], "published bytes depend on nothing but the source and the recipe"


def test_other_tools_read_the_columns(tmp_path: Path) -> None:
    run(collection(tmp_path / "src"), tmp_path / "root", recipe=RECIPES["plain"])
    files = str(tmp_path / "root" / "descriptors" / "*" / "*.parquet")
    found = duckdb.sql(f"select key from '{files}' where license = 'cc0' and year > 2015 order by key").fetchall()
    assert found == [(f"{n // 8}.tar/{n:04d}.jpg",) for n in range(24) if n % 3 == 0 and n > 15]
    frame = pd.concat([pd.read_parquet(path) for path in sorted((tmp_path / "root").rglob("descriptors/*/*.parquet"))])
    assert frame["year"].sum() == sum(2000 + n for n in range(24))
    assert frame["caption"].isna().sum() == 12


@pytest.mark.parametrize("text", [LOCAL, KEPT.format("vlad", 4)], ids=["local", "kept"])
def test_local_descriptors_carry_it_and_only_matching_images_are_voted_for(tmp_path: Path, text: str) -> None:
    files = {f"{name.rpartition('.')[0]}.png": data for name, data in textures(12).items()}
    write_files(tmp_path / "src", {"a.tar": tar_bytes(described(files))})
    (tmp_path / "recipe.toml").write_text(f'[source]\nmetadata = {{ license = "string" }}\n{text}')
    root = tmp_path / "root"
    run(tmp_path / "src", root, recipe=RecipeOptions(recipe=str(tmp_path / "recipe.toml")))
    assert told(root)["a.tar/004.png"] == {"license": "by"}
    for reader in files_of(root):
        rows = reader.whole()
        assert len(rows["license"]) == reader.rows
    part = asked(root, files["004.png"], k=12, index="flat", where="license = 'by'")
    assert part[0].key == "a.tar/004.png"
    assert {int(hit.key[6:9]) % 3 for hit in part} == {1}
    assert all(hit.metadata == {"license": "by"} for hit in part)
    others = asked(root, files["004.png"], k=12, index="flat", where="license <> 'by' or license is null")
    assert others
    assert not {int(hit.key[6:9]) for hit in others} & {1, 4, 7, 10}
    best, *_ = asked(root, files["004.png"], k=3, verify=6, where="license = 'by'")
    assert (best.key, (best.inliers or 0) > 8) == ("a.tar/004.png", True)
    assert asked(root, files["004.png"], k=3, where="license = 'nd'") == []
    delete(EditOptions(root=str(root), keys=("a.tar/004.png",)))
    assert "a.tar/004.png" not in {hit.key for hit in asked(root, files["004.png"], k=12, where="license = 'by'")}
    compact(CompactOptions(root=str(root), least_dead=0.0), quiet())
    assert verify(str(root), quiet()).faults == ()
    after = asked(root, files["007.png"], k=12, where="license = 'by'")
    assert after[0].key == "a.tar/007.png"
    assert {hit.key for hit in after} <= {f"a.tar/{n:03d}.png" for n in (1, 7, 10)}


@pytest.fixture
def sightline(capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_the_command_line_carries_shows_and_filters(sightline, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    source, root, image = collection(tmp_path / "src"), tmp_path / "root", tmp_path / "q.jpg"
    image.write_bytes(jpeg(4))
    quick = ("--backbone", "squeezenet1_1", "--weights", "random:0", "--resize", "longest:64", "--indexes", "flat,lsh")
    code, out, _ = sightline("index", source, root, *quick, "--metadata", f"{DECLARED},rating:float64,public:bool")
    assert code == 0
    assert "note: metadata public, rating is null for every image described; check name and type" in out
    code, out, _ = sightline("query", root, image, "-k", 24, "--where", "license = 'by' and year > 2004", "--json")
    hits = json.loads(out)["results"][0]["hits"]
    assert code == 0
    assert {hit["key"] for hit in hits} == {f"{n // 8}.tar/{n:04d}.jpg" for n in range(5, 24) if n % 3 == 1}
    assert all(hit["metadata"].items() >= about(int(hit["key"][6:10])).items() for hit in hits)
    code, out, _ = sightline("query", root, image, "-k", 2)
    assert code == 0
    assert "license=by, year=2004" in " ".join(out.replace("│", " ").split())
    code, out, err = sightline("query", root, image, "--where", "licence = 'by'")
    assert code == 2
    assert err.strip() == (
        "sightline: --where licence = 'by': names 'licence', which is no column; columns: key (string), width (int64), "
        "height (int64), caption (string), license (string), public (bool), rating (float64), year (int64)"
    )
    assert sightline("index", source, root)[:2][0] == 0, "what is not said is as before"
    for wrong, words in (
        ("key:string", "have of their own"),
        ("year", "no name and type"),
        ("a-b:string", "no name of letters"),
        ("year:int", "there are string, int64, float64, bool, timestamp"),
    ):
        code, _, err = sightline("index", source, root, "--metadata", wrong)
        assert (code, words in err, len(err.strip().splitlines())) == (2, True, 1)


def test_metadata_that_comes_later_leaves_vectors_and_their_whitening_alone(tmp_path: Path) -> None:
    source, root = collection(tmp_path / "src"), tmp_path / "root"
    first = run(source, root, recipe=replace(QUICK, whiten="pca", dims=8))
    second = run(source, root, recipe=RecipeOptions(metadata=DECLARED))
    assert second.recipe.whiten == first.recipe.whiten
    assert (second.stats["images"], second.stats["reused"], second.stats.get("passes", 0)) == (0, 24, 0)
    plain, carrying = (
        {
            key: vector.tolist()
            for r in files_of(root)
            if r.recipe == recipe
            for key, vector in zip(r.keys(), r.vectors(), strict=True)
        }
        for recipe in (first.recipe.descriptor_id, second.recipe.descriptor_id)
    )
    assert plain == carrying
    assert len(plain) == 24


def test_a_folder_carries_none(tmp_path: Path) -> None:
    write_files(tmp_path / "src", images(2))
    with pytest.raises(UserError, match="not carried by folder sources"):
        run(tmp_path / "src", tmp_path / "root", recipe=RECIPES["plain"])


def test_a_file_without_the_column_is_set_aside_with_those_it_has(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    data = pa.array([{"bytes": image, "path": name} for name, image in images(3).items()])
    pq.write_table(pa.table({"image": data, "license": ["cc0"] * 3}), tmp_path / "src" / "a.parquet")
    pq.write_table(pa.table({"image": data, "licence": ["cc0"] * 3}), tmp_path / "src" / "b.parquet")
    report = run(tmp_path / "src", tmp_path / "root", recipe=replace(QUICK, metadata="license:string"))
    (line,) = report.set_aside.values()
    assert "b.parquet" in line
    assert "has no column 'license' of metadata, only image, licence" in line
    assert set(told(tmp_path / "root")) == {f"a.parquet/{name}" for name in images(3)}


def test_a_recipe_says_where_its_metadata_is(tmp_path: Path) -> None:
    source, root = collection(tmp_path / "src", 1), tmp_path / "root"
    path = tmp_path / "recipe.toml"
    path.write_text(
        '[source]\nmetadata = { year = "int64:taken.year" }\n[extractor]\nkind = "histogram"\n[indexes.flat]\n'
    )
    first = run(source, root, recipe=RecipeOptions(recipe=str(path)))
    stated = {"kind": "tar", "metadata": {"year": "int64:taken.year"}}
    assert first.recipe.source.to_json() == {**stated, "rules": 2, "skip_system": True}
    assert told(root)["0.tar/0003.jpg"] == {"year": 2003}
    assert not run(source, root, recipe=RecipeOptions(recipe=str(path))).published
    assert [reader.metadata for reader in files_of(root)] == [{"year": "int64"}]


def as_parquet(folder: Path, shards: int = 3) -> Path:
    """The same images and metadata as `collection`, as columns."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(shards):
        data = [{"bytes": image, "path": name} for name, image in images(8, 8 * n).items()]
        taken = [{"year": 2000 + number} for number in range(8 * n, 8 * n + 8)]
        licenses = [LICENSES[number % 3] for number in range(8 * n, 8 * n + 8)]
        pq.write_table(pa.table({"image": data, "taken": taken, "license": licenses}), folder / f"{n}.parquet")
    return folder


REUSED = {
    "plain": replace(QUICK, indexes=("flat", "lsh")),
    "whitened": replace(QUICK, whiten="pca", dims=8),
    "binary": replace(QUICK, whiten="pca", dims=8, dtype="binary"),
    "full precision": replace(QUICK, dtype="float32"),
}


def vectors_of(root: Path, recipe: str) -> dict[str, list[float]]:
    return {
        key: vector.tolist()
        for reader in files_of(root)
        if reader.recipe == recipe
        for key, vector in zip(reader.keys(), reader.vectors(), strict=True)
    }


@pytest.mark.parametrize("recipe", REUSED.values(), ids=REUSED.keys())
@pytest.mark.parametrize("layout", [collection, as_parquet])
def test_metadata_is_added_changed_and_taken_away_without_describing_an_image(
    tmp_path: Path, recipe: RecipeOptions, layout: Any
) -> None:
    source, root = layout(tmp_path / "src"), tmp_path / "root"
    first = run(source, root, recipe=recipe)
    delete(EditOptions(root=str(root), keys=(live(root)[3],)))
    for declared, year in (("year:int64:taken.year,license:string", 2004), ("year:string:taken.year", "2004")):
        report = run(source, root, recipe=RecipeOptions(metadata=declared))
        assert (report.published, report.stats["images"], report.stats["reused"]) == (True, 0, 24)
        assert report.images["indexed"] == 23
        assert {v["year"] for key, v in about_live(root).items() if "0004" in key} == {year}
        assert vectors_of(root, report.recipe.descriptor_id) == vectors_of(root, first.recipe.descriptor_id)
        assert verify(str(root), quiet()).faults == ()
    again = run(source, root, recipe=replace(recipe, metadata="year:string:taken.year"))
    assert not again.published, "what is named again is what is there"


def live(root: Path) -> list[str]:
    return sorted(about_live(root))


def about_live(root: Path) -> dict[str, dict[str, Any]]:
    """Key -> metadata of what a search returns."""
    with SearchIndex.open(str(root)) as index:
        query = np.ones((1, index.dim), np.float32)
        hits = index.search(query, SearchOptions(k=1000, index="flat", rerank=0))[0]
    return {hit.key: dict(hit.metadata or {}) for hit in hits}


def test_a_shard_whose_images_are_others_now_is_described_with_its_metadata(tmp_path: Path) -> None:
    source, root = collection(tmp_path / "src"), tmp_path / "root"
    run(source, root, recipe=QUICK)
    write_files(source, {"1.tar": tar_bytes(described(images(8, 40)))})
    report = run(source, root, recipe=RecipeOptions(metadata=DECLARED))
    assert (report.stats["images"], report.stats["reused"]) == (8, 16)
    assert about_live(root)["1.tar/0041.jpg"]["year"] == 2041


def test_descriptors_that_were_collected_are_made_again(tmp_path: Path) -> None:
    source, root = collection(tmp_path / "src", 1), tmp_path / "root"
    first = run(source, root, recipe=QUICK)
    for path in (root / "descriptors" / first.recipe.descriptor_id).glob("*.parquet"):
        path.unlink()
    report = run(source, root, recipe=RecipeOptions(metadata=DECLARED))
    assert (report.stats["images"], report.stats.get("reused", 0)) == (8, 0)


def test_a_name_that_no_image_has_is_said_when_nothing_was_described(tmp_path: Path, capsys: Any) -> None:
    source, root = collection(tmp_path / "src", 1), tmp_path / "root"
    run(source, root, recipe=QUICK)
    assert cli.run(["index", str(source), str(root), "--metadata", "licence:string"]) == 0
    assert "metadata licence is null for every image" in capsys.readouterr().out
