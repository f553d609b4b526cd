"""Local descriptors through the whole pipeline: several rows per image, votes, codebooks, verification, edits."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.compact import CompactOptions, compact
from jobs.delete import EditOptions, delete
from jobs.progress import Reporter
from jobs.query import QueryOptions, query
from jobs.recipe import RecipeOptions
from jobs.verify import verify
from pipeline.core.errors import SightlineError, UserError
from pipeline.core.local import LocalStore
from pipeline.core.types import Floats
from pipeline.search.engine import Hit, SearchIndex, SearchOptions
from pipeline.search.find import find
from pipeline.search.query import QueryExtractor
from pipeline.stages.device import choose_device
from pipeline.table import DescriptorReader
from tests.builders import encoded, run, tar_bytes, write_files

LOCAL = '[extractor]\nkind = "sift"\nfeatures = 40\n[indexes.flat]\n[indexes.ivfpq]\n'
KEPT = '[extractor]\nkind = "sift"\nfeatures = 40\n[encode]\nmethod = "{}"\nwords = {}\nkeep = true\n[indexes.flat]\n'


def textured(seed: int) -> Image.Image:
    """Squares of random colours: corners everywhere."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((160, 120), Image.Resampling.BILINEAR)


def textures(count: int, start: int = 0) -> dict[str, bytes]:
    return {f"{i:03d}.png": encoded(textured(i)) for i in range(start, start + count)}


def recipe(folder: Path, text: str) -> RecipeOptions:
    path = folder / "recipe.toml"
    path.write_text(text)
    return RecipeOptions(recipe=str(path))


def asked(root: Path, data: bytes, **options: object) -> list[Hit]:
    with SearchIndex.open(str(root)) as index:
        described = QueryExtractor(LocalStore(str(root)), index.snapshot.recipe, choose_device("cpu")).describe(
            data, "query"
        )
        return find(index, [described], SearchOptions(**options))[0]  # type: ignore[arg-type]


def quiet() -> Reporter:
    return Reporter(io.StringIO())


def files_of(root: Path) -> list[DescriptorReader]:
    paths = sorted(p for p in (root / "descriptors").rglob("*.parquet") if ".rejects." not in p.name)
    return [DescriptorReader(path) for path in paths]


@pytest.mark.parametrize("kind", ["flat", "ivfpq"])
def test_an_image_is_found_by_the_votes_of_its_descriptors(tmp_path: Path, kind: str) -> None:
    blank = encoded(Image.new("RGB", (80, 80), (9, 9, 9)))
    source = write_files(tmp_path / "src", {**textures(10), "blank.png": blank})
    report = run(source, tmp_path / "root", recipe=recipe(tmp_path, LOCAL))
    assert (report.images["indexed"], report.images["rejected"]) == (10, 1)
    readers = files_of(tmp_path / "root")
    assert all(reader.is_local for reader in readers)
    assert sum(reader.rows for reader in readers) > 100
    hits = asked(tmp_path / "root", textures(10)["004.png"], index=kind, k=5)
    assert hits[0].key == "004.png"
    assert hits[0].score > 0.9 > hits[1].score + 0.2
    assert len({hit.key for hit in hits}) == len(hits)
    with pytest.raises(UserError, match="no local features"):
        asked(tmp_path / "root", blank)


def test_rows_tell_where_a_descriptor_lies(tmp_path: Path) -> None:
    source = write_files(tmp_path / "src", textures(3))
    run(source, tmp_path / "root", recipe=recipe(tmp_path, LOCAL))
    (path,) = (tmp_path / "root" / "descriptors").rglob("*.parquet")
    table = pq.read_table(path).to_pandas()
    assert {"key", "image_row", "box", "scale", "score", "descriptor"} <= set(table.columns)
    assert table.groupby("image_row")["key"].nunique().tolist() == [1, 1, 1]
    assert np.stack(table["box"].to_list()).shape == (len(table), 4)


def test_a_part_of_an_image_is_verified_and_located(tmp_path: Path) -> None:
    source = write_files(tmp_path / "src", textures(8))
    for name, text in (("local", LOCAL), ("kept", KEPT.format("vlad", 4))):
        (tmp_path / name).mkdir()
        root = tmp_path / name / "root"
        run(source, root, recipe=recipe(tmp_path / name, text.replace("40", "400")))
        part = encoded(textured(5).crop((40, 30, 140, 110)))
        best, *others = asked(root, part, k=3, verify=8)
        assert (best.key, best.inliers is not None and best.inliers >= 15) == ("005.png", True)
        assert best.box == pytest.approx((40, 30, 100, 80), abs=4)
        assert all((hit.inliers or 0) < (best.inliers or 0) / 3 for hit in others)


@pytest.mark.parametrize("method", ["bow", "vlad", "fisher", "asmk"])
def test_codebooks_are_fitted_once_and_serve_what_comes_later(tmp_path: Path, method: str) -> None:
    options = recipe(tmp_path, KEPT.format(method, 6))
    source = write_files(tmp_path / "src", {"a.tar": tar_bytes(textures(6)), "b.tar": tar_bytes(textures(6, 6))})
    first = run(source, tmp_path / "root", recipe=options)
    encode = first.recipe.encode
    assert encode is not None
    assert encode.artifact is not None
    write_files(source, {"c.tar": tar_bytes(textures(4, 12))})
    second = run(source, tmp_path / "root", recipe=options)
    assert second.recipe.encode == encode, "the codebook is that of the first run"
    assert (second.images["indexed"], second.plan.new_shards) == (16, 1)
    for seed, shard in ((2, "a"), (13, "c")):
        assert asked(tmp_path / "root", encoded(textured(seed)), k=1)[0].key == f"{shard}.tar/{seed:03d}.png"
    again = run(source, tmp_path / "root", recipe=options)
    assert not again.published
    assert verify(str(tmp_path / "root"), quiet()).faults == ()


def test_what_a_sample_left_is_what_extraction_gives(tmp_path: Path) -> None:
    """Shards of the sample are encoded from their stored local descriptors, the others from their images."""
    shards = {f"{name}.tar": tar_bytes(textures(5, 5 * n)) for n, name in enumerate("abc")}
    source, root = write_files(tmp_path / "src", shards), tmp_path / "root"
    options = recipe(tmp_path, KEPT.format("vlad", 6).replace("keep", "sample_shards = 2\nkeep"))

    def vectors() -> dict[str, Floats]:
        readers = [reader for reader in files_of(root) if not reader.is_local]
        return {key: x for reader in readers for key, x in zip(reader.keys(), reader.vectors(), strict=True)}

    run(source, root, recipe=options)
    sampled = vectors()
    assert len([reader for reader in files_of(root) if reader.is_local]) == 2
    for name in ("descriptors", "snapshots", "manifests", "indexes"):
        shutil.rmtree(root / name)
    run(source, root, recipe=options)
    assert not [reader for reader in files_of(root) if reader.is_local], "the codebook was there already"
    fresh = vectors()
    assert len(fresh) == 15
    for key, vector in fresh.items():
        np.testing.assert_array_equal(vector, sampled[key])


@pytest.mark.parametrize("text", [LOCAL, KEPT.format("vlad", 4)], ids=["local", "kept"])
def test_images_are_deleted_compacted_and_come_back_by_whole_images(tmp_path: Path, text: str) -> None:
    source = write_files(tmp_path / "src", textures(9))
    root = tmp_path / "root"
    options = recipe(tmp_path, text)
    run(source, root, recipe=options, files=5)
    report = delete(EditOptions(root=str(root), keys=("002.png", "007.png")))
    assert report["deleted"] == 2
    keys = [hit.key for hit in asked(root, textures(9)["002.png"], index="flat", k=9)]
    assert not {"002.png", "007.png"} & set(keys)
    compact(CompactOptions(root=str(root), least_dead=0.0), quiet())
    assert verify(str(root), quiet()).faults == ()
    hits = asked(root, textures(9)["003.png"], k=3, verify=3)
    assert (hits[0].key, (hits[0].inliers or 0) > 8) == ("003.png", True)
    write_files(source, textures(2, 9))
    grown = run(source, root, recipe=options, files=5)
    assert grown.images["indexed"] == 9
    (source / "003.png").unlink()
    assert run(source, root, recipe=options, files=5).images["indexed"] == 8
    assert "003.png" not in {hit.key for hit in asked(root, textures(9)["003.png"], k=9)}


def test_what_does_not_go_together_is_said(tmp_path: Path) -> None:
    source = write_files(tmp_path / "src", textures(4))
    text = '[extractor]\nkind = "histogram"\n[encode]\nmethod = "vlad"\n[indexes.flat]\n'
    with pytest.raises(UserError, match="one vector an image"):
        run(source, tmp_path / "root", recipe=recipe(tmp_path, text))
    with pytest.raises(UserError, match="wants its patches"):
        run(source, tmp_path / "root", recipe=recipe(tmp_path, KEPT.format("mop", 4)))
    run(source, tmp_path / "plain", recipe=recipe(tmp_path, '[extractor]\nkind = "histogram"\n[indexes.flat]\n'))
    with pytest.raises(UserError, match="stores none"):
        asked(tmp_path / "plain", textures(1)["000.png"], verify=3)
    run(source, tmp_path / "local", recipe=recipe(tmp_path, LOCAL))
    with pytest.raises(UserError, match="global descriptors"):
        asked(tmp_path / "local", textures(1)["000.png"], expand=(3, 3.0))
    with SearchIndex.open(str(tmp_path / "local")) as index, pytest.raises(UserError, match="query with an image"):
        index.search(np.zeros((1, 128), np.float32), SearchOptions())
    with pytest.raises(SightlineError, match="use fewer words"):
        run(source, tmp_path / "few", recipe=recipe(tmp_path, KEPT.format("vlad", 4000)))


def test_codes_are_stored_packed_and_compared_by_hamming(tmp_path: Path) -> None:
    source = write_files(tmp_path / "src", textures(12))
    text = 'dtype = "binary"\n[extractor]\nkind = "hog"\n[whiten]\ndims = 10\n[indexes.binary]\n[indexes.flat]\n'
    run(source, tmp_path / "root", recipe=recipe(tmp_path, text))
    reader = next(reader for reader in files_of(tmp_path / "root") if reader.dtype == "binary")
    assert len(np.unique(np.abs(reader.vectors()))) == 1
    assert reader.whole()["descriptor"].type == pa.binary(2)
    for kind in ("binary", "flat"):
        best = asked(tmp_path / "root", textures(12)["007.png"], index=kind, k=1)[0]
        assert best.key == "007.png"
        assert best.score == pytest.approx(1.0, abs=1e-5)


def test_a_located_object_has_a_box_from_whatever_source(tmp_path: Path) -> None:
    files = textures(3)
    write_files(tmp_path / "tars", {"a.tar": tar_bytes(files)})
    write_files(tmp_path / "files", {**files, "list.txt": "\n".join(files).encode()})
    records = "# kapture format: 1.1\n" + "\n".join(f"{n}, cam0, {name}" for n, name in enumerate(files)) + "\n"
    data = {f"records_data/{name}": content for name, content in files.items()}
    write_files(tmp_path / "kapture" / "sensors", {**data, "records_camera.txt": records.encode()})
    boxes = []
    for source in ("tars", "files", "tars/a.tar", "files/list.txt", "kapture"):
        root = tmp_path / f"root-{source.replace('/', '-')}"
        options = RecipeOptions(backbone="squeezenet1_1", weights="random:0", resize="none", indexes=("flat",))
        run(tmp_path / source, root, recipe=options)
        path = write_files(tmp_path / "q", {"q.png": files["001.png"]}) / "q.png"
        asked_for = QueryOptions(root=str(root), images=[str(path)], search=SearchOptions(k=2), locate=True)
        hits = query(asked_for)["results"][0]["hits"]
        assert hits[0]["key"].endswith("001.png")
        boxes.append([hit["box"] for hit in hits])
    assert all(mine == boxes[0] for mine in boxes)


@pytest.mark.parametrize("text", [LOCAL, KEPT.format("vlad", 4)], ids=["local", "kept"])
def test_a_dry_run_counts_the_descriptors_of_an_image(tmp_path: Path, text: str) -> None:
    source = write_files(tmp_path / "src", textures(8))
    options = recipe(tmp_path, text)
    told = run(source, tmp_path / "root", recipe=options, dry_run=True, trial_seconds=1.0).estimate
    run(source, tmp_path / "root", recipe=options)
    readers = [reader for reader in files_of(tmp_path / "root") if reader.is_local == (text == LOCAL)]
    assert told["dimensions"] == readers[0].dim
    per_image = sum(reader.rows for reader in readers) / 8
    assert told["descriptors_per_image"] == pytest.approx(per_image, rel=0.1)
    vectors = sum(reader.vectors().nbytes for reader in readers)
    assert told["index_bytes"]["flat"] == pytest.approx(vectors, rel=0.2)


def test_a_box_keeps_the_scale_of_its_image_or_is_one_by_itself(tmp_path: Path) -> None:
    source = write_files(tmp_path / "src", textures(3))
    options = RecipeOptions(backbone="squeezenet1_1", weights="random:0", resize="longest:80", indexes=("flat",))
    run(source, tmp_path / "root", recipe=options)
    store = LocalStore(str(tmp_path / "root"))
    with SearchIndex.open(str(tmp_path / "root")) as index:
        extractor = QueryExtractor(store, index.snapshot.recipe, choose_device("cpu"))
    box = (20.0, 10.0, 100.0, 80.0)
    image = textures(1)["000.png"]
    own, database = (Image.open(io.BytesIO(extractor.cut(image, box, scale))) for scale in ("own", "database"))
    # 160 pixels become 80: a crop of 100 becomes 50; by itself it is shrunk to 80 only when it is described.
    assert (own.size, database.size) == ((100, 80), (50, 40))
    exact = extractor._resize.model_copy(update={"policy": "exact", "width": 64, "height": 64})
    extractor._resize = exact
    with pytest.raises(UserError, match="no meaning"):
        extractor.cut(image, box, "database")
