"""Image and symbol priors: denoisers, diffusion schedule, mixtures."""
