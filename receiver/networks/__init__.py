"""Network architectures, with the parameter names of their public checkpoints."""
