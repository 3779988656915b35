"""The U-Net for sampling computes what the plain one computes, and its kernels what plain operations do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from receiver.networks.fast_unet import FastUNet
from receiver.networks.fused_norm import available, plain_norm_silu
from receiver.networks.unet import UNetModel

ROOT = Path(__file__).parents[3]
OPTIONS = {
    "published": {"attention_resolutions": (4,), "use_scale_shift_norm": True, "resblock_updown": True, "num_heads": 2},
    "plain": {"attention_resolutions": (2, 4), "num_res_blocks": 2, "num_head_channels": 16},
    "labelled": {"attention_resolutions": (2,), "num_classes": 5, "use_new_attention_order": True, "num_heads": 4},
}


def network(name: str) -> UNetModel:
    options = {"num_res_blocks": 1, "channel_mult": (1, 2, 2), **OPTIONS[name]}
    unet = UNetModel(32, 3, 32, 6, norm_groups=8, **options)
    generator = torch.Generator().manual_seed(0)
    for parameter in unet.parameters():
        scale = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.3
        parameter.data.normal_(std=scale, generator=generator)
    return unet.requires_grad_(False).eval()


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05), (torch.float16, 0.01)], ids=str
)
@pytest.mark.parametrize("name", OPTIONS)
def test_output_and_gradient_are_those_of_the_plain_network(name: str, dtype: torch.dtype, bound: float) -> None:
    unet = network(name)
    fast = FastUNet(unet, dtype)
    x = torch.randn(2, 3, 32, 24, generator=torch.Generator().manual_seed(1)).requires_grad_()
    t, labels = torch.tensor([3, 700]), (torch.tensor([1, 4]),) if unet.num_classes else ()
    found = []
    for model in (unet, fast):
        out = model(x, t, *labels)
        found.append((out.detach(), torch.autograd.grad(out.float().square().sum(), x)[0]))
    for plain, other in zip(*found, strict=True):
        assert other.dtype == torch.float32 and other.shape == plain.shape
        assert float((other - plain).norm() / plain.norm()) < bound
    with torch.no_grad():
        torch.testing.assert_close(fast(x, t, *labels), found[1][0])


def test_labels_are_given_exactly_when_there_are_classes() -> None:
    x, t = torch.zeros(1, 3, 8, 8), torch.ones(1)
    with pytest.raises(ValueError, match="num_classes"):
        FastUNet(network("labelled"))(x, t)
    with pytest.raises(ValueError, match="num_classes"):
        FastUNet(network("plain"))(x, t, torch.zeros(1, dtype=torch.int64))


def test_the_kernels_are_for_cuda_devices() -> None:
    assert not available("cpu")


PROGRAM = """
import torch
from receiver.networks.fused_norm import fused_norm_silu, plain_norm_silu
torch.manual_seed(0)
for shape, groups, silu in (((2, 32, 4, 6), 8, True), ((1, 48, 5, 5), 4, False), ((3, 96, 8, 8), 32, True)):
    x = (torch.randn(shape) + 0.3).to(memory_format=torch.channels_last)
    weight, bias, weights = torch.randn(shape[:2]), torch.randn(shape[:2]), torch.randn(shape)
    found = []
    for compute in (plain_norm_silu, fused_norm_silu):
        leaf = x.clone().requires_grad_()
        out = compute(leaf, weight, bias, groups, 1e-5, silu)
        found.append((out.detach(), torch.autograd.grad((out * weights).sum(), leaf)[0]))
    for plain, fused in zip(*found):
        torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-5)
print("equal")
"""


def test_the_kernels_compute_what_plain_operations_do() -> None:
    """In Triton's interpreter, which has to be chosen before Triton is imported."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=300)
    assert ran.stdout.strip() == "equal", ran.stderr[-2000:]


@pytest.mark.parametrize("silu", [True, False])
def test_plain_operations_normalise_and_activate(silu: bool) -> None:
    x = torch.randn(2, 8, 3, 5, generator=torch.Generator().manual_seed(2))
    weight, bias = torch.full((2, 8), 2.0), torch.full((2, 8), 0.5)
    expected = torch.nn.functional.group_norm(x, 4) * 2 + 0.5
    expected = torch.nn.functional.silu(expected) if silu else expected
    torch.testing.assert_close(plain_norm_silu(x, weight, bias, 4, 1e-5, silu), expected)
