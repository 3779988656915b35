"""Building blocks of the transformers against slow, literal versions."""

import pytest
import torch

from receiver.networks import swin
from receiver.networks.neighbourhood import NeighbourhoodAttention
from receiver.networks.ntscc import RATES, RateMatrices, pack, rates_sent, unpack
from receiver.networks.swin import SwinBlock, WindowAttention, from_windows, shift_mask, to_windows


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def attend(attention, x, near, bias):
    """Attention over the flattened map, pixel by pixel; `near` and `bias` say who sees whom and how gladly."""
    q, k, v = attention.qkv(x).unflatten(-1, (3, attention.heads, -1)).unbind(-3)
    logits = torch.einsum("bihd,bjhd->bhij", q, k) / q.shape[-1] ** 0.5 + bias
    weights = logits.masked_fill(~near, -torch.inf).softmax(dim=-1)
    return attention.proj(torch.einsum("bhij,bjhd->bihd", weights, v).flatten(2))


@pytest.mark.parametrize(("height", "width", "kernel"), [(16, 24, 7), (7, 9, 7), (8, 8, 7), (5, 11, 3), (13, 3, 3)])
def test_neighbourhood_attention_sees_the_square_around_each_pixel(height, width, kernel):
    attention = NeighbourhoodAttention(8, kernel, 2)
    torch.nn.init.normal_(attention.rpb)
    x = torch.randn(2, height, width, 8)

    def along(length):
        place = torch.arange(length)
        first = (place - kernel // 2).clamp(0, length - kernel)
        near = (place >= first[:, None]) & (place < first[:, None] + kernel)
        return near, (place - place[:, None] + kernel - 1).clamp(0, 2 * kernel - 2)

    (near_rows, rows), (near_columns, columns) = along(height), along(width)
    near = near_rows[:, None, :, None] & near_columns[None, :, None, :]
    bias = attention.rpb[:, rows[:, None, :, None], columns[None, :, None, :]]
    wanted = attend(attention, x.flatten(1, 2), near.flatten(2).flatten(0, 1), bias.flatten(3).flatten(1, 2))
    torch.testing.assert_close(attention(x), wanted.unflatten(1, (height, width)), rtol=1e-4, atol=1e-5)


def test_neighbourhood_attention_pads_maps_smaller_than_its_kernel_with_zeros():
    attention = NeighbourhoodAttention(4, 7, 1)
    x = torch.randn(1, 4, 9, 4)
    padded = torch.cat([x, torch.zeros(1, 3, 9, 4)], dim=1)
    torch.testing.assert_close(attention(x), attention(padded)[:, :4])


@pytest.mark.parametrize(("height", "width"), [(8, 12), (4, 4)])
def test_a_shifted_block_lets_only_pixels_of_one_window_talk(height, width):
    block = SwinBlock(6, 4, 3, 2.0, shifted=True)
    torch.nn.init.normal_(block.attn.relative_position_bias_table)
    # Windows of the map as it is: the shifted ones begin two pixels from the edge.
    window = 100 * ((torch.arange(height)[:, None] + 2) // 4) + (torch.arange(width) + 2) // 4
    flat = window.flatten()
    near = flat[:, None] == flat
    table = block.attn.relative_position_bias_table.view(7, 7, 3)
    rows, columns = torch.arange(height).repeat_interleave(width), torch.arange(width).repeat(height)
    bias = table[(rows[:, None] - rows + 3).clamp(0, 6), (columns[:, None] - columns + 3).clamp(0, 6)].permute(2, 0, 1)
    x = torch.randn(2, height, width, 6)
    h = x + attend(block.attn, block.norm1(x).flatten(1, 2), near, bias).unflatten(1, (height, width))
    torch.testing.assert_close(block(x), h + block.mlp(block.norm2(h)), rtol=1e-4, atol=1e-5)
    assert shift_mask(height, width, 4, x.device).shape == (height * width // 16, 1, 16, 16)


def test_windows_and_colours_come_back():
    x = torch.randn(2, 8, 12, 5)
    assert torch.equal(from_windows(to_windows(x, 4), 8, 12), x)
    maps = torch.randn(2, 5, 6, 8)
    assert torch.equal(unpack(pack(maps)), maps)
    row_plus_column = (torch.arange(6)[:, None] + torch.arange(8))[None, None].float()
    assert torch.equal(pack(row_plus_column)[0, :, ..., 0] % 2, torch.tensor([1.0, 0.0])[:, None, None].expand(2, 3, 8))


def test_a_batch_is_treated_image_by_image():
    block = SwinBlock(6, 4, 3, 2.0, shifted=True)
    x = torch.randn(3, 8, 8, 6)
    torch.testing.assert_close(block(x), torch.cat([block(x[i : i + 1]) for i in range(3)]), rtol=1e-5, atol=1e-5)


def test_plans_made_in_inference_mode_serve_gradients():
    block = torch.nn.Sequential(SwinBlock(6, 4, 3, 2.0, shifted=True), NeighbourhoodAttention(6, 3, 3))
    x = torch.randn(1, 12, 16, 6, requires_grad=True)
    with torch.inference_mode():
        block(x)
    block(x).sum().backward()
    assert x.grad is not None and bool(x.grad.isfinite().all())


def test_every_rate_has_its_matrix():
    matrices = RateMatrices(8)
    x, index = torch.randn(2, 3, 8), torch.tensor([[0, 5, 25], [5, 5, 1]])
    for place in ((0, 1), (1, 2)):
        wanted = x[place] @ matrices.weight[index[place]] + matrices.bias[index[place]]
        torch.testing.assert_close(matrices(x, index)[place], wanted)
    assert rates_sent(torch.tensor([0, 1, 25])).tolist() == [0, 4, 320]
    assert len(RATES) == 26


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="heads"):
        WindowAttention(10, 4, 3)
    with pytest.raises(ValueError, match="heads"):
        NeighbourhoodAttention(10, 3, 3)
    with pytest.raises(ValueError, match="odd"):
        NeighbourhoodAttention(9, 4, 3)


@pytest.mark.parametrize("shifted", [False, True])
def test_a_block_of_a_large_map_is_computed_twice_for_the_same_gradient(shifted, monkeypatch):
    block = SwinBlock(8, 4, 2, 2.0, shifted).requires_grad_(False)
    passes: list[int] = []
    block.norm1.register_forward_pre_hook(lambda *_: passes.append(1))
    gradients = []
    for kept in (swin.KEPT_FEATURES, 1):
        monkeypatch.setattr(swin, "KEPT_FEATURES", kept)
        x = torch.linspace(-1, 1, 2 * 8 * 8 * 8).view(2, 8, 8, 8).requires_grad_()
        (gradient,) = torch.autograd.grad(block(x).square().sum(), x)
        gradients.append(gradient)
    assert torch.equal(*gradients) and len(passes) == 3
