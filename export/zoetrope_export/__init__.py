"""From a Stable Video Diffusion checkpoint to compiled engines and a Triton model repository."""
