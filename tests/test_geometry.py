"""Matching and verification against maps that are known, and against OpenCV's matcher."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipeline.core.types import DescriptorBatch, Floats
from pipeline.geometry import Matching, Verified, matches, verify


def unit(n: int, d: int = 32, seed: int = 0) -> Floats:
    x = np.random.default_rng(seed).normal(size=(n, d))
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), dtype=np.float32)


def local(vectors: Floats, points: Floats) -> DescriptorBatch:
    n = len(vectors)
    boxes = np.concatenate([points - 3, points + 3], axis=1).astype(np.float32)
    ones = np.ones(n, np.float32)
    return DescriptorBatch(vectors=vectors, image_row=np.zeros(n, np.int64), boxes=boxes, scales=ones, scores=ones)


def scene(share: float, seed: int = 0) -> tuple[DescriptorBatch, DescriptorBatch, Floats]:
    """A query, an image that shows a share of it turned and shrunk among other things, and the map between them."""
    random = np.random.default_rng(seed)
    points = random.uniform(0, 400, (80, 2)).astype(np.float32)
    x = unit(80, seed=seed)
    affine = np.array([[0.5, -0.2, 120.0], [0.2, 0.5, 60.0]], np.float32)
    shown = int(share * 80)
    there = points[:shown] @ affine[:, :2].T + affine[:, 2] + random.normal(scale=0.5, size=(shown, 2))
    noise = random.uniform(0, 512, (100, 2))
    y = np.concatenate([x[:shown] + 0.05 * unit(shown, seed=9), unit(100, seed=7)])
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    return local(x, points), local(y, np.concatenate([there, noise]).astype(np.float32)), affine


def test_matches_are_those_of_opencvs_matcher() -> None:
    a, b = unit(60), np.concatenate([unit(60)[::-1] + 0.1 * unit(60, seed=2), unit(40, seed=3)])
    b = np.asarray(b / np.linalg.norm(b, axis=1, keepdims=True), np.float32)
    left, right = matches(a, b, Matching(ratio=0.8))
    knn = cv2.BFMatcher(cv2.NORM_L2).knnMatch(a, b, k=2)
    expected = {(m.queryIdx, m.trainIdx) for m, n in knn if m.distance < 0.8 * n.distance}
    assert set(zip(left.tolist(), right.tolist(), strict=True)) == expected
    assert len(expected) > 30


def test_repeated_texture_votes_once() -> None:
    x = unit(1)
    left, right = matches(np.repeat(x, 20, axis=0), np.concatenate([x, unit(5, seed=4)]), Matching())
    assert (len(left), right.tolist()) == (1, [0])


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_the_map_between_two_views_is_found(share: float) -> None:
    query, image, affine = scene(share)
    found = verify(query, image, 512, Matching())
    assert found.inliers >= 0.9 * share * 80
    assert found.affine is not None
    np.testing.assert_allclose(found.affine, affine, atol=2.0)
    box = found.box(400, 400, (512, 512))
    corners = np.array([[0, 0], [400, 0], [0, 400], [400, 400]]) @ affine[:, :2].T + affine[:, 2]
    low, high = np.clip(corners.min(axis=0), 0, 512), np.clip(corners.max(axis=0), 0, 512)
    assert box == pytest.approx((*low, *(high - low)), abs=4)


def test_strangers_have_no_inliers_and_results_repeat_themselves() -> None:
    query, image, _ = scene(0.0)
    assert verify(query, image, 512, Matching()) == Verified(inliers=0)
    query, image, _ = scene(0.5)
    first, second = (verify(query, image, 512, Matching()) for _ in range(2))
    np.testing.assert_array_equal(first.affine, second.affine)


def test_nothing_matches_nothing() -> None:
    nothing = local(np.zeros((0, 32), np.float32), np.zeros((0, 2), np.float32))
    query, _, _ = scene(1.0)
    assert verify(query, nothing, 512, Matching()).inliers == 0
    assert verify(nothing, query, 512, Matching()).inliers == 0
    assert Verified(inliers=0).box(10, 10, (10, 10)) is None


def test_a_mirrored_copy_is_another_object() -> None:
    query, image, _ = scene(1.0)
    assert image.boxes is not None
    boxes = image.boxes.copy()
    boxes[:, [0, 2]] = 512 - boxes[:, [2, 0]]
    mirrored = DescriptorBatch(
        vectors=image.vectors, image_row=image.image_row, boxes=boxes, scales=image.scales, scores=image.scores
    )
    assert verify(query, mirrored, 512, Matching()).inliers == 0
