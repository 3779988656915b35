"""The fused residual block computes what the plain one does, values and gradients."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from lab.training.fused_block import use_fused_blocks
from receiver.networks.local import LocalUNet

PROGRAM = """
import torch
from lab.training import fused_block
for width in (4, 24, 32):
    for dtype in (torch.float32, torch.bfloat16):
        assert fused_block.agrees(width, torch.device("cpu"), dtype), (width, dtype)
fused_block._EPS = 1.0
assert not fused_block.agrees(24, torch.device("cpu"), torch.float32), "another result is found out"
print("equal")
"""


def test_the_fused_block_agrees_with_the_plain_one() -> None:
    """In Triton's interpreter, which has to be chosen before Triton is imported."""
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": root}
    ran = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=300)
    assert ran.stdout.strip() == "equal", ran.stderr[-2000:]


def test_networks_on_a_cpu_stay_as_they_are() -> None:
    network = LocalUNet(3, (4,), (1,), 8, fold=1)
    before = network.before[0][0].forward
    assert not use_fused_blocks(network, torch.float32)
    assert network.before[0][0].forward == before
