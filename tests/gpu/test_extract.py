"""Extraction on a CUDA device gives what it gives on the CPU. Needs neither Ray nor a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs.weights import named_weights
from pipeline.core.local import LocalStore
from pipeline.extract.pooled import Spec
from pipeline.publish.catalog import Catalog
from tests.builders import jpeg

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("backbone", ["resnet50", "mobilenet_v2", "vit_b_16"])
@pytest.mark.parametrize("fields", [{}, {"pooling": "rmac"}, {"scales": (1.0, 0.7071)}, {"precision": "bf16"}], ids=str)
def test_cuda_agrees_with_the_cpu(tmp_path: Path, backbone: str, fields: dict[str, Any]) -> None:
    store = LocalStore(str(tmp_path))
    weights = Catalog(store).put_artifact(named_weights(backbone, "random:0").to_bytes(), "model.safetensors")
    spec = Spec(backbone=backbone, weights=weights, resize="longest:256", **fields)
    vectors = []
    for device in ("cpu", "cuda"):
        extractor = spec.build(store, torch.device(device))
        vectors.append(extractor.extract([extractor.prepare(jpeg(seed, 320, 240)) for seed in range(4)]).vectors)
    cosine = np.einsum("nd,nd->n", *vectors)
    assert cosine.min() > (0.99 if fields.get("precision") == "bf16" else 0.9999)
