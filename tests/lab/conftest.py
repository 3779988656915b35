"""Settings of all receiver tests."""

import torch

# The networks here are tiny, and other processes run beside the tests: with more threads than free cores, every small
# operation waits for the slowest thread (measured: 20 times slower on two busy cores).
torch.set_num_threads(1)
