"""How the demo checkpoint was made: procedural clips, a small VAE, a small video denoiser."""
