"""The forward model: everything between the codec and the received grid, differentiable."""
