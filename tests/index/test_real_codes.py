"""Bits over descriptors of photographs: GeM is never negative, and its codes must tell images apart all the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jobs.weights import named_weights
from pipeline.core.local import LocalStore
from pipeline.core.types import Floats
from pipeline.decode import Decoded
from pipeline.extract.pooled import Spec as PooledSpec
from pipeline.index.binary import Spec
from pipeline.index.lsh import Spec as LshSpec
from pipeline.publish.catalog import Catalog
from tests.index.test_binary import bits_that_split, codes_in


@pytest.fixture(scope="module")
def gem(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Floats:
    store = LocalStore(str(tmp_path_factory.mktemp("gem")))
    file = real_data / "weights" / "squeezenet1_0_imagenet_fp16.pth"
    weights = named_weights("squeezenet1_0", str(file)).to_bytes()
    artifact = Catalog(store).put_artifact(weights, "model.safetensors")
    extractor = PooledSpec(backbone="squeezenet1_0", weights=artifact).build(store, torch.device("cpu"))
    pixels = []
    for path in sorted((real_data / "museum" / "BBDD").glob("*.jpg"))[:120]:
        with Image.open(path) as image:
            pixels.append(np.asarray(image.convert("RGB").resize((96, 96))))
    return extractor.extract([Decoded(pixels=one, width=96, height=96) for one in pixels]).vectors


@pytest.mark.parametrize("spec", [Spec(thresholds=True), LshSpec(), LshSpec(rotation="sample")])
def test_nine_of_ten_bits_split_photographs(spec: Spec | LshSpec, gem: Floats, tmp_path: Path) -> None:
    assert (gem >= 0).all()
    assert bits_that_split(codes_in(spec, gem, tmp_path)) > 0.9
