"""The last look at descriptors before they are written: those that cannot be searched become rejects with a reason.

It comes after the last normalisation, and is the same for every kind. What a whitening or a codebook is fitted from has
passed it as well, without whitening: nothing that is not finite reaches a fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pipeline.core.types import DescriptorBatch, DType, Floats, Reject
from pipeline.features.usable import whitened
from pipeline.stages.describe import Described


def searchable(
    described: Described, whiten: Callable[[Floats], Floats] | None, dtype: DType, zero_means: str = ""
) -> Described:
    """Whiten descriptors, and leave out the rows, and with their last row the images, that cannot be searched.

    zero_means: what the kind of descriptor says about an image whose vector is zero.
    """
    made = whitened(described.batch, whiten, dtype)
    if not len(made.images):
        return replace(described, batch=made.batch)
    has_rows = np.bincount(made.batch.image_row, minlength=len(described.images)) > 0
    sizes = described.sizes or [0] * len(described.images)
    rejects = [
        Reject(
            key=described.images[image].key,
            uri=described.images[image].uri,
            reason=made.reason(zero_means, image),
            bytes=sizes[image],
            sha256=described.images[image].sha256,
        )
        for image in np.flatnonzero(~has_rows).tolist()
    ]
    live = np.flatnonzero(has_rows).tolist()
    return replace(
        described,
        images=[described.images[image] for image in live],
        sizes=[sizes[image] for image in live],
        batch=DescriptorBatch.joined([made.batch.of(image) for image in live], made.batch.vectors.shape[1]),
        rejects=[*described.rejects, *rejects],
    )
