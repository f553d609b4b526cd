from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from pipeline.core.storage import Store, open_store
from pipeline.core.types import Artifact, Shard
from pipeline.extract.sift import Spec as SiftSpec
from pipeline.features.encoding import EncodeSpec
from pipeline.publish.recipe import Recipe
from pipeline.sources.tar import Spec as TarSpec
from pipeline.stages.fit import fit_key
from pipeline.whiten import WhitenSpec
from tests.builders import tar_bytes
from tests.life import RECIPE, InMemory, in_memory

SHARDS = [Shard(id="a", uri="a.tar", bytes=1, etag="1", entries=())]


def recipe(codebook: str) -> Recipe:
    artifact = Artifact(uri=f"artifacts/{codebook}", sha256=codebook * 64, bytes=1)
    encode = EncodeSpec(method="vlad", artifact=artifact)
    return Recipe(source=TarSpec(), extractor=SiftSpec(), encode=encode, whiten=WhitenSpec())


def test_whitening_over_another_codebook_is_another_fit() -> None:
    assert fit_key(recipe("a"), SHARDS, "whiten") != fit_key(recipe("b"), SHARDS, "whiten")
    assert fit_key(recipe("a"), SHARDS, "encode") == fit_key(recipe("b"), SHARDS, "encode")
    assert fit_key(recipe("a"), SHARDS, "encode") != fit_key(recipe("a"), SHARDS, "whiten")


class KilledAfterTheFit:
    """A root whose writer is killed at the second shard that it completes by a fit."""

    def __init__(self, inner: Store) -> None:
        self._inner, self._fitted, self._completed = inner, False, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def read(self, name: str) -> bytes:
        data = self._inner.read(name)
        self._fitted = self._fitted or name.startswith("artifacts/records/")
        return data

    def put_if_absent(self, name: str, data: bytes) -> None:
        if self._fitted and name.startswith("descriptors/"):
            self._completed += 1
            if self._completed == 2:
                raise KeyboardInterrupt
        self._inner.put_if_absent(name, data)
        self._fitted = self._fitted or name.startswith("artifacts/records/")


WHITENED = f"""
{RECIPE}
[whiten]
method = "pca"
dims = 4
"""


@pytest.fixture
def here() -> Iterator[InMemory]:
    with in_memory(WHITENED) as made:
        made.life = replace(made.life, kind="tar")
        for name in "abcd":
            put(made, name)
        yield made


def put(here: InMemory, name: str) -> None:
    here.images.write(f"{name}.tar", tar_bytes({f"{name}{n}.jpg": f"image {name}{n}".encode() for n in range(4)}))


def fits(here: InMemory) -> set[str]:
    return {entry.path for entry in here.objects.list("artifacts") if entry.path.endswith("whitening.safetensors")}


def records(here: InMemory) -> dict[str, bytes]:
    names = [entry.path for entry in here.objects.list("descriptors") if entry.path.endswith(".json")]
    return {name: here.objects.read(name) for name in names}


def killed(here: InMemory, **more: Any) -> None:
    with pytest.raises(KeyboardInterrupt), here.through(KilledAfterTheFit):
        here.life.index(**more)


def whitening(here: InMemory) -> str:
    whiten = here.life.catalog.require_head().recipe.whiten
    assert whiten is not None
    assert whiten.artifact is not None
    return whiten.artifact.uri


def test_a_killed_run_of_a_source_that_grew_meanwhile_keeps_its_fit(here: InMemory) -> None:
    """Another whitening is another recipe: every shard that was finished would be extracted again."""
    killed(here)
    (before,) = fits(here)
    done = records(here)
    put(here, "e")
    killed(here)
    put(here, "f")
    here.life.index()
    assert done.items() <= records(here).items()
    assert len({name.split("/")[1] for name in records(here)}) == 2, "the sample's descriptors, and those of the fit"
    assert fits(here) == {before} == {whitening(here)}
    here.life.check()


def test_a_record_of_the_sample_alone_still_counts(here: InMemory) -> None:
    """Earlier releases wrote no other; once it was taken up, the source may grow."""
    killed(here)
    (before,) = fits(here)
    both = [entry.path for entry in here.objects.list("artifacts/records")]
    assert len(both) == 2, "by run, and by sample"
    for name in both:
        here.objects.delete(name)
        killed(here)
        assert fits(here) == {before}


def test_fitting_again_is_a_new_fit_that_a_killed_run_keeps(here: InMemory) -> None:
    here.life.index()
    first = whitening(here)
    put(here, "e")
    here.life.index()
    assert whitening(here) == first, "what is published stays"
    killed(here, refit=True)
    (second,) = fits(here) - {first}
    put(here, "f")
    here.life.index(refit=True)
    assert whitening(here) == second
    put(here, "g")
    here.life.index(refit=True)
    assert whitening(here) not in (first, second)
    here.life.check()


def test_fitting_again_after_a_rollback_is_a_new_fit(here: InMemory) -> None:
    here.life.index()
    put(here, "e")
    here.life.index(refit=True)
    second = whitening(here)
    here.life.rollback(1)
    put(here, "f")
    here.life.index(refit=True)
    assert len(fits(here)) == 3
    assert whitening(here) != second


def test_a_changed_recipe_is_fitted_from_what_is_there_now(here: InMemory) -> None:
    """The fit of an unfinished run of another recipe, or of another source, is none of this run's."""
    killed(here)
    (before,) = fits(here)
    put(here, "e")
    stated = replace(here.life, recipe=here.life.recipe.replace("toy", "other"))
    store = here.life.recipe.rpartition("/")[0]
    open_store(store).write("other.toml", WHITENED.replace("dims = 4", "dims = 8").encode())
    stated.index()
    assert whitening(here) != before
