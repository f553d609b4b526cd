from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.features.pooling import crow, gem, mac, power_mean, raac, signed_power_mean, spoc


def feature_map(seed: int = 0, shape: tuple[int, ...] = (2, 5, 4, 6)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator) - 0.3


def test_gem_equals_a_slow_loop() -> None:
    x = feature_map()
    expected = np.zeros((2, 5))
    for n in range(2):
        for c in range(5):
            values = [max(float(v), 1e-6) ** 3 for v in x[n, c].flatten()]
            expected[n, c] = (sum(values) / len(values)) ** (1 / 3)
    np.testing.assert_allclose(gem(x, 3.0).numpy(), expected, rtol=1e-5)


def test_a_learned_exponent_gives_the_same_as_a_given_one() -> None:
    x = feature_map()
    torch.testing.assert_close(gem(x, torch.tensor([2.7])), gem(x, 2.7))


def test_one_exponent_per_channel_pools_each_channel_by_its_own() -> None:
    x = feature_map()
    p = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    pooled = gem(x, p)
    for channel, value in enumerate(p.tolist()):
        torch.testing.assert_close(pooled[:, channel], gem(x, value)[:, channel])


def test_gem_of_half_precision_maps_is_computed_in_single_precision() -> None:
    tiny = torch.full((1, 1, 2, 2), 1e-3, dtype=torch.float16)
    assert gem(tiny, 6.0).dtype == torch.float32
    assert float(gem(tiny, 6.0)) == pytest.approx(1e-3, rel=1e-3)


def test_mac_and_spoc_are_maximum_and_mean() -> None:
    x = feature_map()
    torch.testing.assert_close(mac(x), x.flatten(2).max(dim=2).values)
    torch.testing.assert_close(spoc(x), x.flatten(2).mean(dim=2))


def test_crow_equals_the_formula_written_out() -> None:
    x = feature_map().clamp(min=0)
    x[0, 2] = 0.0
    for n in range(2):
        feats = x[n].numpy().astype(np.float64)
        s = feats.sum(axis=0)
        spatial = np.sqrt(s / np.sqrt((s**2).sum()))
        share = (feats != 0).mean(axis=(1, 2))
        with np.errstate(divide="ignore"):
            weight = np.where(share > 0, np.log(share.sum() / share), 0.0)
        expected = weight * (feats * spatial).sum(axis=(1, 2))
        np.testing.assert_allclose(crow(x)[n].numpy(), expected, rtol=1e-5)


def test_crow_of_an_all_zero_map_is_zero() -> None:
    assert not crow(torch.zeros(1, 3, 4, 4)).any()


def test_raac_concatenates_cell_means() -> None:
    x = feature_map(shape=(1, 3, 4, 6))
    pooled = raac(x, 2).reshape(3, 2, 2)
    torch.testing.assert_close(pooled[:, 0, 1], x[0, :, :2, 3:].mean(dim=(1, 2)))


def test_power_mean_with_exponent_one_is_the_mean() -> None:
    vectors = [feature_map(seed)[:, :, 0, 0] for seed in range(3)]
    torch.testing.assert_close(power_mean(vectors, 1.0), torch.stack(vectors).mean(dim=0))


def test_pooling_reproduces_the_reference_implementation(golden_data: Path) -> None:
    golden = np.load(golden_data / "pooling.npz", allow_pickle=False)
    checked = 0
    for name in golden.files:
        map_name, _, kind = name.partition("_")
        x = torch.from_numpy(golden[f"{map_name}_x"])
        if kind.startswith("gem_p"):
            ours = gem(x, float(kind.removeprefix("gem_p")))
        elif kind in ("mac", "spoc"):
            ours = mac(x) if kind == "mac" else spoc(x)
        else:
            continue
        np.testing.assert_allclose(ours.numpy(), golden[name], rtol=1e-4, atol=1e-7)
        checked += 1
    assert checked == 30


def test_pooling_over_scales_reproduces_the_reference_implementation(golden_data: Path) -> None:
    golden = np.load(golden_data / "expansion_multiscale.npz", allow_pickle=False)
    scales = [torch.from_numpy(v) for v in golden["scales"]]
    gem3 = torch.nn.functional.normalize(signed_power_mean(scales, 3.0))
    mean = torch.nn.functional.normalize(power_mean(scales, 1.0))
    np.testing.assert_allclose(gem3.numpy(), golden["scales_gem3"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(mean.numpy(), golden["scales_mean"], rtol=1e-4, atol=1e-6)


def test_what_is_zero_at_all_scales_stays_zero_as_dir_has_it() -> None:
    scales = [torch.tensor([[0.0, 0.5, -0.5]]), torch.tensor([[0.0, 0.3, -0.7]])]
    pooled = signed_power_mean(scales)
    cubes = np.cbrt(np.mean([[0, 0.125, -0.125], [0, 0.027, -0.343]], axis=0))
    np.testing.assert_allclose(pooled.numpy()[0], cubes, rtol=1e-5)
    assert float(signed_power_mean(scales, zeros="positive")[0, 0]) == pytest.approx(0.01, rel=1e-4)
