"""Pure maths on tensors: backbones, pooling, regions, normalisation. No files, no images, no configuration."""
