"""Recipe: everything that decides what is published from a collection, as one value. It runs nothing.

Two fingerprints (infra/decisions/0001): `descriptor_id` covers what changes a descriptor file, so adding an index kind
extracts nothing anew; `fingerprint` covers all of it. The location of SOURCE is in neither: a snapshot records it.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from pipeline.core.specs import Spec, digest_of, fingerprint_payload, spec_from_json
from pipeline.core.types import DType
from pipeline.features.encoding import EncodeSpec
from pipeline.whiten import WhitenSpec


def _parse(family: str) -> BeforeValidator:
    return BeforeValidator(lambda value: spec_from_json(family, value) if isinstance(value, dict) else value)


_TO_JSON = PlainSerializer(lambda spec: spec.to_json(), return_type=dict[str, Any])

AnySource = Annotated[Spec, _parse("pipeline.sources"), _TO_JSON]
AnyExtract = Annotated[Spec, _parse("pipeline.extract"), _TO_JSON]
AnyIndex = Annotated[Spec, _parse("pipeline.index"), _TO_JSON]


class Recipe(BaseModel):
    """source + extractor + encoding + whitening + indexes; kinds are looked up in their families when it is read.

    Typed as plain Specs here, because publishing needs nothing of them but their JSON and fingerprint.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: AnySource
    extractor: AnyExtract
    encode: EncodeSpec | None = None
    whiten: WhitenSpec | None = None
    dtype: DType = "float16"
    indexes: tuple[AnyIndex, ...] = ()

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) over everything."""
        return digest_of(_payload(self))

    @property
    def descriptor_id(self) -> str:
        """Names the folder of descriptor files: the recipe without its indexes."""
        return digest_of(_payload(self.model_copy(update={"indexes": ()})))[:20]

    @property
    def source_id(self) -> str:
        """Names the folder of what is remembered of containers that cannot be read: the settings that read them."""
        return self.source.fingerprint[:20]

    def index_id(self, spec: Spec) -> str:
        """Names the folder of one index kind over these descriptors."""
        return digest_of({"descriptors": self.descriptor_id, "index": spec.fingerprint})[:20]

    @property
    def raw(self) -> Recipe:
        """The recipe whose descriptors whitening is fitted from: unwhitened, in full precision, without indexes."""
        return self.model_copy(update={"whiten": None, "dtype": "float32", "indexes": ()})

    @property
    def local(self) -> Recipe:
        """The recipe whose local descriptors the codebook is fitted from: not encoded, in the precision they have."""
        return self.model_copy(update={"encode": None, "whiten": None, "dtype": "float16", "indexes": ()})

    @property
    def bare(self) -> Recipe:
        """The recipe without the metadata that images carry: no descriptor depends on it."""
        if "metadata" not in type(self.source).model_fields:
            return self
        return self.model_copy(update={"source": self.source.model_copy(update={"metadata": {}})})

    def donors(self, head: Recipe | None) -> tuple[str, ...]:
        """Return the descriptor ids of recipes of equal descriptors and other metadata: the head's, and with none."""
        bare = self.bare.descriptor_id
        ids = [head.descriptor_id] if head is not None and head.bare.descriptor_id == bare else []
        return tuple(name for name in dict.fromkeys([*ids, bare]) if name != self.descriptor_id)

    @property
    def declared(self) -> Recipe:
        """The recipe as a user states it: without the digests that fitting filled in."""
        stated: dict[str, Any] = {}
        if self.whiten is not None and self.whiten.method != "file":
            stated["whiten"] = self.whiten.model_copy(update={"artifact": None})
        if self.encode is not None:
            stated["encode"] = self.encode.model_copy(update={"artifact": None})
        return self.model_copy(update=stated)


def _payload(recipe: Recipe) -> dict[str, Any]:
    payload = fingerprint_payload(recipe)
    if recipe.whiten is not None and recipe.whiten.artifact is not None:
        payload["whiten"] = {"sha256": recipe.whiten.artifact.sha256}
    return payload
