"""Pooled descriptors: a convolutional (or ViT) feature map pooled to one vector per image, at one or several scales.

GeM, MAC, SPoC, CroW, R-MAC and RAAC, with the learned exponent, projection and region whitening that
DIR and cirtorch checkpoints carry. Corpus whitening is not here: it follows in the stage, as a matrix of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from PIL import Image as PillowImage
from pydantic import Field, JsonValue, model_validator
from torch import Tensor, nn

from pipeline.core.errors import BadImageError, UserError
from pipeline.core.specs import NOT_IN_FINGERPRINT
from pipeline.core.storage import Store
from pipeline.core.types import Artifact, DescriptorBatch
from pipeline.decode import Decoded, Resize
from pipeline.extract import HEADS, ImageSpec, load_network
from pipeline.features.backbones import BACKBONES, backbone
from pipeline.features.device import lane
from pipeline.features.fuse import is_optimized, optimized
from pipeline.features.normalize import IMAGENET_MEAN, IMAGENET_STD, l2_normalize, normalize_pixels
from pipeline.features.pooling import crow, gem, mac, power_mean, raac, signed_power_mean, spoc
from pipeline.features.regions import overlapping_rmac, regional

RECTIFIED = ("alexnet", "vgg", "resnet", "densenet", "squeezenet", "mobilenet_v2", "efficientnet_lite")
"""Backbones whose maps are never negative: a ReLU is their last layer."""
Pooling = Literal["gem", "mac", "spoc", "crow", "rmac", "raac", "cls"]


class Spec(ImageSpec):
    """Settings of a pooled descriptor.

    weights: safetensors with torchvision's names, and `pool.p`, `projection.*`, `regional.*` where a checkpoint has
    them. pooling "raac" concatenates the means of raac_grid x raac_grid cells. gem_p None takes the learned `pool.p`.
    projection applies the FC head (DIR's fc, cirtorch's whiten); l2_before_projection is cirtorch's order and DIR's
    norm_features. regional whitens each region (cirtorch's Rpool, with `regional.p` when pooling is gem).
    pooling "cls" takes a transformer's class token. local_whitening applies cirtorch's lwhiten to each position before
    pooling. rmac_grid "overlap" is CNN-CBIR's: windows of every level at half overlap; last_pool keeps VGG's and
    AlexNet's last max-pool, as there.
    scale_resize "tensor" resizes the normalised tensor (cirtorch), "image" the pixels with Pillow (DIR's --trfs).
    decoding "reduced" decodes large JPEGs at a fraction of their size, down to 1.5 times what `resize` wants.
    precision: how the network computes; pooling is float32. tf32: convolutions and products of float32 with 10 bits of
    mantissa on GPUs that have it, which torch would take for fp32; elsewhere as fp32. bf16: half the memory, 7 bits.
    scale_pooling: "power" is cirtorch's (GeM exponent when that is defined, else a mean), "signed" DIR's gem, "mean".
    signed_zeros: what "signed" makes of values that are zero at all scales, DIR zero, the first release 0.01.
    """

    gpu: ClassVar[bool] = True
    initial: ClassVar[dict[str, JsonValue]] = {**ImageSpec.initial, "signed_zeros": "zero"}

    backbone: str
    weights: Artifact
    origin: str = Field(default="", json_schema_extra=NOT_IN_FINGERPRINT)
    pooling: Pooling = "gem"
    gem_p: float | None = 3.0
    rmac_levels: int = Field(default=3, ge=1, le=6)
    rmac_grid: Literal["steps", "overlap"] = "steps"
    last_pool: bool = False
    local_whitening: bool = False
    raac_grid: int = Field(default=2, ge=1, le=8)
    regional: bool = False
    projection: bool = False
    l2_before_projection: bool = True
    scales: tuple[float, ...] = (1.0,)
    scale_resize: Literal["tensor", "image"] = "tensor"
    scale_pooling: Literal["power", "signed", "mean"] = "power"
    resize: str = "longest:1024"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    center_bias: float = 0.0
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    decoding: Literal["full", "reduced"] = "full"
    signed_zeros: Literal["zero", "positive"] = "positive"

    @model_validator(mode="after")
    def _check(self) -> Self:
        timm = self.backbone.startswith("timm:")
        if not timm and self.backbone not in BACKBONES:
            names = ", ".join(sorted(BACKBONES))
            raise ValueError(f"backbone {self.backbone!r} is not known; choose one of {names} or timm:NAME")
        if self.pooling == "cls" and not (timm or BACKBONES[self.backbone].class_token):
            raise ValueError(f"{self.backbone} has no class token to take for pooling cls")
        if self.last_pool and self.backbone not in ("alexnet", "vgg16", "vgg19"):
            raise ValueError(f"{self.backbone} has no last max-pool to keep")
        if not self.scales or not all(0 < s <= 4 for s in self.scales):
            raise ValueError("scales must be one or more numbers in ]0, 4]")
        if self.gem_p is not None and not 0 < self.gem_p <= 100:
            raise ValueError("gem_p must be in ]0, 100]")
        Resize.parse(self.resize)
        return self

    @property
    def reduced(self) -> bool:
        """By `decoding`."""
        return self.decoding == "reduced"

    @property
    def nonnegative(self) -> bool:
        """Of powers (GeM), and of rectified maps, unless a projection or whitening of regions follows."""
        rectified = self.backbone.startswith(RECTIFIED) and not self.local_whitening
        return not (self.projection or self.regional) and (self.pooling == "gem" or rectified)

    @property
    def label(self) -> str:
        """Descriptor, backbone and origin of the weights, in a few words."""
        return f"{self.pooling} of {self.backbone} ({self.origin or 'weights ' + self.weights.sha256[:12]})"

    def build(self, store: Store, device: torch.device) -> PooledExtractor:
        """Load the weights (verified) and return the extractor on `device`."""
        network, extras = load_network(store, self.weights, self.backbone, HEADS)
        return PooledExtractor(self, network, extras, device)


class PooledExtractor:
    """The loaded descriptor; see `pipeline.extract.Extractor`. `lane`: its device."""

    def __init__(self, spec: Spec, network: nn.Module, extras: dict[str, Tensor], device: torch.device) -> None:
        self.spec, self.device = spec, device
        self.lane = lane(device, tf32=spec.precision == "tf32")
        self.take_device_seconds, self.use_graphs = self.lane.clock, self.lane.use_graphs
        self._extras = {name: value.to(device) for name, value in extras.items()}
        self._dtype = torch.bfloat16 if spec.precision == "bf16" else torch.float32
        self._network: Any = optimized(network, device, self._dtype)
        # What could not be converted as a whole computes its products in half precision.
        self._autocast = spec.precision == "bf16" and not is_optimized(self._network)
        self._pool = _pooling(spec, self._extras)
        facts = backbone(spec.backbone)
        self._min_side = 2 * facts.stride if spec.last_pool else facts.min_side
        if spec.pooling == "cls" and not facts.class_token:
            raise UserError(f"--backbone {spec.backbone}", "has no class token", "use another pooling")
        self.dim = facts.channels * (spec.raac_grid**2 if spec.pooling == "raac" else 1)
        for flag, name in (
            (spec.local_whitening, "local.weight"),
            (spec.regional, "regional.weight"),
            (spec.projection, "projection.weight"),
        ):
            if flag:
                self.dim = int(_need(self._extras, name, spec).shape[0])

    def prepare(self, data: bytes) -> Decoded:
        """Decode and resize; an image that the backbone can take at no scale is a BadImageError."""
        image = self.spec.decode(data)
        height, width = image.pixels.shape[:2]
        if not self._scales(height, width):
            largest = max(self.spec.scales)
            at = "" if largest == 1.0 else f", {largest:g} times that is its largest scale"
            raise BadImageError(
                f"too small: {width}x{height} after resizing{at}, "
                f"{self.spec.backbone} needs {self._min_side} pixels a side"
            )
        return image

    def _scales(self, height: int, width: int) -> list[float]:
        """Return the scales at which the backbone takes images of this size: a small image is described by fewer."""
        return [scale for scale in self.spec.scales if int(min(height, width) * scale) >= self._min_side]

    def extract(self, images: Sequence[Decoded]) -> DescriptorBatch:
        """Return L2-normalised descriptors (n, d) of images of equal shape."""
        with self.lane.running():
            pixels = [image.pixels for image in images]
            whole, resized = self.lane.put(pixels), self._resized(pixels)
            made = self.vectors_of(whole, resized) if resized else self.lane.call(self.vectors_of, whole)
            (vectors,) = self.lane.fetch(made)
        return DescriptorBatch.of_images(vectors)

    def feature_map(self, image: Decoded) -> Tensor:
        """Return the map (C, h, w) of one image before pooling, float32, on the host, for localisation."""
        with self.lane.running():
            x = self._normalized(self.lane.put([image.pixels])).contiguous(memory_format=torch.channels_last)
            with self.lane.arithmetic(), torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
                features: Tensor = self._network(x if self._autocast else x.to(self._dtype))
            (found,) = self.lane.fetch(features[0].float())
        return torch.from_numpy(found)

    def vectors_of(self, pixels_nhwc: Tensor, resized: Mapping[float, Tensor] = MappingProxyType({})) -> Tensor:
        """Return the descriptors (n, d) of pixels (n, H, W, 3) on the device, there; for use within `lane.running`.

        resized: the same at other scales, where the recipe has images resized and not tensors.
        """
        per_scale = []
        whole = self._normalized(pixels_nhwc)
        for scale in self._scales(*pixels_nhwc.shape[1:3]):
            if scale == 1.0:
                x = whole
            elif scale in resized:
                x = self._normalized(resized[scale])
            else:
                x = nn.functional.interpolate(whole, scale_factor=scale, mode="bilinear", align_corners=False)
            per_scale.append(self._forward(x))
        if len(per_scale) == 1:
            return per_scale[0]
        return l2_normalize(self._pool_scales(per_scale))

    def _resized(self, pixels: Sequence[np.ndarray]) -> dict[float, Tensor]:
        """Return images on the device at the scales for which they are resized as images."""
        if self.spec.scale_resize != "image":
            return {}
        scales = [scale for scale in self._scales(*pixels[0].shape[:2]) if scale != 1.0]
        return {scale: self.lane.put([_resized(image, scale) for image in pixels]) for scale in scales}

    def _normalized(self, pixels_nhwc: Tensor) -> Tensor:
        return normalize_pixels(pixels_nhwc, self.spec.mean, self.spec.std)

    def _forward(self, x: Tensor) -> Tensor:
        with self.lane.arithmetic():
            return self._vectors(x)

    def _vectors(self, x: Tensor) -> Tensor:
        spec = self.spec
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            x = x if self._autocast else x.to(self._dtype)
            features = self._network.class_vector(x) if spec.pooling == "cls" else self._network(x)
        # Powers of small activations underflow in half precision: pooling is always float32.
        vectors = features.float() if spec.pooling == "cls" else self._pooled(features.float())
        if spec.projection:
            vectors = l2_normalize(vectors) if spec.l2_before_projection else vectors
            vectors = nn.functional.linear(
                vectors, self._extras["projection.weight"], self._extras.get("projection.bias")
            )
        return l2_normalize(vectors)

    def _pooled(self, features: Tensor) -> Tensor:
        spec = self.spec
        if spec.last_pool:
            features = nn.functional.max_pool2d(features, 2)
        if spec.local_whitening:
            weight, bias = self._extras["local.weight"], self._extras.get("local.bias")
            features = nn.functional.conv2d(features, weight[:, :, None, None], bias)
        if spec.center_bias:
            features = features * _center_weight(features, spec.center_bias)
        return self._pool(features)

    def _pool_scales(self, per_scale: list[Tensor]) -> Tensor:
        spec = self.spec
        if spec.scale_pooling == "signed":
            return signed_power_mean(per_scale, 3.0, zeros=spec.signed_zeros)
        if spec.scale_pooling == "power" and spec.pooling == "gem" and not (spec.projection or spec.regional):
            p = spec.gem_p if spec.gem_p is not None else _need(self._extras, "pool.p", spec)
            return power_mean(per_scale, p)
        return power_mean(per_scale, 1.0)


def _pooling(spec: Spec, extras: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
    whiten: Callable[[Tensor], Tensor] | None = None
    if spec.regional:
        weight, bias = _need(extras, "regional.weight", spec), extras.get("regional.bias")

        def whiten(x: Tensor) -> Tensor:
            return nn.functional.linear(x, weight, bias)

    p: float | Tensor = 3.0
    if spec.pooling == "gem":
        learned = "regional.p" if spec.regional else "pool.p"
        p = spec.gem_p if spec.gem_p is not None else _need(extras, learned, spec)
    plain: dict[str, Callable[[Tensor], Tensor]] = {
        "gem": lambda x: gem(x, p),
        "mac": mac,
        "spoc": spoc,
        "crow": crow,
        "rmac": mac,
        "raac": lambda x: raac(x, spec.raac_grid),
        "cls": spoc,
    }
    pool = plain[spec.pooling]
    if spec.pooling == "rmac" and spec.rmac_grid == "overlap":
        return lambda x: overlapping_rmac(x, levels=spec.rmac_levels)
    if spec.regional or spec.pooling == "rmac":
        return lambda x: regional(x, pool=pool, levels=spec.rmac_levels, whiten=whiten)
    return pool


def _need(extras: dict[str, Tensor], name: str, spec: Spec) -> Tensor:
    if name not in extras:
        raise UserError(
            f"weights {spec.origin or spec.weights.uri}", f"hold no {name}", "correct the recipe or --model"
        )
    return extras[name]


def _resized(image: np.ndarray, scale: float) -> np.ndarray:
    height, width = image.shape[:2]
    size = (max(1, int(0.5 + scale * width)), max(1, int(0.5 + scale * height)))
    return np.asarray(PillowImage.fromarray(image).resize(size, PillowImage.Resampling.BILINEAR))


def _center_weight(features: Tensor, bias: float) -> Tensor:
    # DIR's center_bias: a 4x4 map of ones whose middle 2x2 is 1 + bias, stretched over the feature map.
    grid = torch.ones(1, 1, 4, 4, device=features.device)
    grid[:, :, 1:3, 1:3] += bias
    return nn.functional.interpolate(grid, size=features.shape[-2:], mode="bilinear", align_corners=True)
