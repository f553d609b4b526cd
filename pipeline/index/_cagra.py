"""HNSW graphs from CAGRA, built on a GPU (Ootomo et al., "CAGRA", 2023) by a faiss that has cuVS.

The graph is copied into an index of our own, whose file and search need no GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.core.errors import UserError
from pipeline.core.types import Floats

WIDER = 2
"""Candidates of a row while the graph is built, over the links it is left with."""


def expect(library: Any) -> None:
    """Raise a UserError unless the module faiss has CAGRA, and sees a GPU."""
    if not hasattr(library, "GpuIndexCagra"):
        raise UserError(
            "hnsw build cagra", "needs faiss with cuVS", "install faiss-gpu-cuvs in place of faiss-cpu, or use insert"
        )
    if not library.get_num_gpus():
        raise UserError("hnsw build cagra", "needs a GPU, and faiss sees none", "check the driver, or use insert")


def graph(library: Any, vectors: Floats, m: int) -> Any:
    """Return a faiss index whose `hnsw` links vectors (n, d) by inner product, m links each and 2 m on level 0."""
    expect(library)
    dim = vectors.shape[1]
    config = library.GpuIndexCagraConfig()
    config.graph_degree, config.intermediate_graph_degree = 2 * m, 2 * m * WIDER
    built = library.GpuIndexCagra(library.StandardGpuResources(), dim, library.METRIC_INNER_PRODUCT, config)
    built.train(np.ascontiguousarray(vectors))
    copied = library.IndexHNSWCagra(dim, m, library.METRIC_INNER_PRODUCT)
    # Higher levels too: without them a search begins anywhere, which only CAGRA's own class does.
    copied.base_level_only = False
    built.copyTo(copied)
    return copied
