"""The public checkpoints' parameter names and shapes, and what the networks compute."""

import math

import pytest
import torch

from receiver.networks.adjscc import ADJSCC, GDN, AFModule
from receiver.networks.unet import UNetModel, timestep_embedding

#: Options of 256x256_diffusion_uncond.pt as its project's documentation gives them.
ADM_256 = {
    "image_size": 256,
    "in_channels": 3,
    "model_channels": 256,
    "out_channels": 6,
    "num_res_blocks": 2,
    "attention_resolutions": (8, 16, 32),
    "channel_mult": (1, 1, 2, 2, 4, 4),
    "num_head_channels": 64,
    "use_scale_shift_norm": True,
    "resblock_updown": True,
}
#: Options of ffhq_10m.pt.
FFHQ_10M = {
    **ADM_256,
    "model_channels": 128,
    "num_res_blocks": 1,
    "attention_resolutions": (16,),
    "num_heads": 4,
}


def shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def expected_unet(config: dict) -> dict[str, tuple[int, ...]]:
    """The ADM state dict, from the architecture's table rather than from the code under test."""
    base, emb = config["model_channels"], 4 * config["model_channels"]
    names: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *shape: int) -> None:
        names[f"{name}.weight"], names[f"{name}.bias"] = shape, shape[:1]

    def res(name: str, channels: int, out: int) -> None:
        layer(f"{name}.in_layers.0", channels)
        layer(f"{name}.in_layers.2", out, channels, 3, 3)
        layer(f"{name}.emb_layers.1", out * (2 if config.get("use_scale_shift_norm") else 1), emb)
        layer(f"{name}.out_layers.0", out)
        layer(f"{name}.out_layers.3", out, out, 3, 3)
        if channels != out:
            layer(f"{name}.skip_connection", out, channels, 1, 1)

    def attention(name: str, channels: int) -> None:
        layer(f"{name}.norm", channels)
        layer(f"{name}.qkv", 3 * channels, channels, 1)
        layer(f"{name}.proj_out", channels, channels, 1)

    layer("time_embed.0", emb, base)
    layer("time_embed.2", emb, emb)
    if config.get("num_classes"):
        names["label_emb.weight"] = (config["num_classes"], emb)
    mults, blocks, at = config["channel_mult"], config["num_res_blocks"], config["attention_resolutions"]
    width = [int(base * mult) for mult in mults]
    layer("input_blocks.0.0", width[0], config["in_channels"], 3, 3)
    stack, channels, index = [width[0]], width[0], 1
    for level, out in enumerate(width):
        for _ in range(blocks):
            res(f"input_blocks.{index}.0", channels, out)
            if 2**level in at:
                attention(f"input_blocks.{index}.1", out)
            channels = out
            stack.append(out)
            index += 1
        if level + 1 < len(width):
            if config.get("resblock_updown"):
                res(f"input_blocks.{index}.0", out, out)
            elif config.get("conv_resample", True):
                layer(f"input_blocks.{index}.0.op", out, out, 3, 3)
            stack.append(out)
            index += 1
    res("middle_block.0", channels, channels)
    attention("middle_block.1", channels)
    res("middle_block.2", channels, channels)
    index = 0
    for level in range(len(width) - 1, -1, -1):
        out = width[level]
        for block in range(blocks + 1):
            res(f"output_blocks.{index}.0", channels + stack.pop(), out)
            place = 1
            if 2**level in at:
                attention(f"output_blocks.{index}.1", out)
                place = 2
            if level > 0 and block == blocks:
                if config.get("resblock_updown"):
                    res(f"output_blocks.{index}.{place}", out, out)
                elif config.get("conv_resample", True):
                    layer(f"output_blocks.{index}.{place}.conv", out, out, 3, 3)
            channels = out
            index += 1
    layer("out.0", channels)
    layer("out.2", config["out_channels"], width[0], 3, 3)
    return names


SMALL = {
    "image_size": 16,
    "in_channels": 2,
    "model_channels": 32,
    "out_channels": 2,
    "num_res_blocks": 1,
    "attention_resolutions": (2,),
    "channel_mult": (1, 2),
    "num_head_channels": 16,
}


@pytest.mark.parametrize(
    "config",
    [
        ADM_256,
        FFHQ_10M,
        SMALL,
        {**SMALL, "use_scale_shift_norm": True, "num_classes": 7},
        {**SMALL, "conv_resample": False},
        {**SMALL, "resblock_updown": True},
    ],
)
def test_the_unet_has_the_names_and_shapes_of_the_public_checkpoints(config: dict) -> None:
    with torch.device("meta"):
        model = UNetModel(**config)
    assert shapes(model) == expected_unet(config)


def test_the_public_imagenet_model_has_552_8_million_parameters() -> None:
    with torch.device("meta"):
        model = UNetModel(**ADM_256)
    # Dhariwal & Nichol 2021, table of the 256x256 models: 554 M for the class-conditional one, which adds the
    # embedding of 1000 labels, 1000 * 1024 numbers.
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == 552_814_086
    assert round((count + 1000 * 1024) / 1e6) == 554


def trained(config: dict, seed: int = 0) -> UNetModel:
    """A U-Net whose zero-initialised layers are random, so that every part of it has an effect."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = UNetModel(**config).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.08)
    return model


@pytest.mark.parametrize("option", [{}, {"use_scale_shift_norm": True}, {"resblock_updown": True}])
def test_every_parameter_of_the_unet_matters(option: dict) -> None:
    model = trained({**SMALL, **option})
    x = torch.randn(2, 2, 16, 16, generator=torch.Generator().manual_seed(1))
    model(x, torch.tensor([3, 800])).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and float(parameter.grad.abs().max()) > 0, name


def test_the_unet_treats_images_of_a_batch_apart_and_takes_any_size() -> None:
    model = trained(SMALL)
    x = torch.randn(3, 2, 24, 16, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0, 10, 999])
    with torch.no_grad():
        together = model(x, t)
        alone = torch.cat([model(x[i : i + 1], t[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert together.shape == x.shape


def test_both_attention_orders_agree_after_reordering_the_weights() -> None:
    old = trained(SMALL)
    new = trained({**SMALL, "use_new_attention_order": True})
    state = old.state_dict()
    for key in [key for key in state if ".qkv." in key]:
        rows = state[key]
        heads = rows.shape[0] // 3 // SMALL["num_head_channels"]
        per_head = rows.view(heads, 3, SMALL["num_head_channels"], *rows.shape[1:])
        state[key] = per_head.transpose(0, 1).reshape(rows.shape)
    new.load_state_dict(state)
    x, t = torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(1)), torch.tensor([5])
    with torch.no_grad():
        torch.testing.assert_close(old(x, t), new(x, t), rtol=1e-4, atol=1e-4)


def test_attention_equals_the_textbook_formula() -> None:
    model = trained({**SMALL, "num_head_channels": 32})
    block = model.middle_block[1]  # 64 channels, two heads, ordered (head, q/k/v, channel)
    x = torch.randn(1, 64, 4, 4, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        rows = block.qkv(block.norm(x.flatten(2)))[0]
        mixed = []
        for head in range(2):
            q, k, v = rows[96 * head : 96 * (head + 1)].split(32)
            weights = torch.softmax(q.T @ k / math.sqrt(32), dim=1)
            mixed.append(v @ weights.T)
        expected = x.flatten(2) + block.proj_out(torch.cat(mixed)[None])
        torch.testing.assert_close(block(x), expected.view_as(x), rtol=1e-4, atol=1e-4)


def test_half_precision_touches_convolutions_only_and_stays_close() -> None:
    model = trained(SMALL)
    x, t = torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(1)), torch.tensor([500])
    with torch.no_grad():
        full = model(x, t)
        model.convert_to_fp16()
        half = model(x, t)
        assert model.time_embed[0].weight.dtype == model.out[0].weight.dtype == torch.float32
        assert model.input_blocks[1][0].in_layers[2].weight.dtype == torch.float16
        assert half.dtype == torch.float32
        assert float((half - full).norm() / full.norm()) < 0.02
        model.convert_to_fp32()
        assert float((model(x, t) - full).norm() / full.norm()) < 0.01


def test_labels_are_wanted_exactly_by_class_conditional_models() -> None:
    x, t = torch.zeros(1, 2, 16, 16), torch.tensor([1])
    conditional = trained({**SMALL, "num_classes": 3})
    with pytest.raises(ValueError, match="num_classes"):
        conditional(x, t)
    with pytest.raises(ValueError, match="num_classes"):
        trained(SMALL)(x, t, torch.tensor([0]))
    with torch.no_grad():
        assert not torch.allclose(conditional(x, t, torch.tensor([0])), conditional(x, t, torch.tensor([2])))


def test_checkpointing_changes_no_gradient() -> None:
    x, t = torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(1)), torch.tensor([7])
    grads = []
    for use_checkpoint in (False, True):
        leaf = x.clone().requires_grad_()
        trained({**SMALL, "use_checkpoint": use_checkpoint})(leaf, t).square().sum().backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(grads[0], grads[1])


def test_widths_must_divide_into_norm_groups_and_heads() -> None:
    with pytest.raises(ValueError, match="norm_groups"):
        UNetModel(**{**SMALL, "model_channels": 24})
    with pytest.raises(ValueError, match="heads"):
        UNetModel(**{**SMALL, "num_head_channels": -1, "num_heads": 7})


def test_the_timestep_embedding_is_cosines_then_sines() -> None:
    row = timestep_embedding(torch.tensor([10]), 8)[0]
    for k in range(4):
        phase = 10 * 10_000 ** (-k / 4)
        assert row[k].item() == pytest.approx(math.cos(phase), abs=1e-5)
        assert row[4 + k].item() == pytest.approx(math.sin(phase), abs=1e-5)


def expected_adjscc(C: int) -> dict[str, tuple[int, ...]]:
    """State dict of the DiffCom authors' ADJSCC, as their public network file lays it out."""
    names: dict[str, tuple[int, ...]] = {}
    # (block, output channels of the convolution, weight shape, has a PReLU)
    encoder = [(1, 256, (256, 3, 9, 9))] + [(i, 256, (256, 256, 5, 5)) for i in (2, 3, 4)] + [(5, C, (C, 256, 5, 5))]
    decoder = (
        [(1, 256, (C, 256, 5, 5))] + [(i, 256, (256, 256, 5, 5)) for i in (2, 3, 4)] + [(5, 256, (256, 256, 9, 9))]
    )
    for half, stem, blocks in (("jscc_encoder", "conv_block", encoder), ("jscc_decoder", "upconv_block", decoder)):
        for index, out, weight in blocks:
            prefix = f"{half}.{stem}{index}"
            names[f"{prefix}.0.weight"], names[f"{prefix}.0.bias"] = weight, (out,)
            names[f"{prefix}.1.beta"], names[f"{prefix}.1.gamma"] = (out,), (out, out)
            if not (half == "jscc_encoder" and index == 5):
                names[f"{prefix}.2.weight"] = (1,)
        for index in range(1, 5 if half == "jscc_encoder" else 6):
            prefix = f"{half}.attention{index}"
            names[f"{prefix}.fc1.weight"], names[f"{prefix}.fc1.bias"] = (16, 257), (16,)
            names[f"{prefix}.fc2.weight"], names[f"{prefix}.fc2.bias"] = (256, 16), (256,)
    names["jscc_decoder.conv_block_out.1.weight"] = (3, 256, 7, 7)
    names["jscc_decoder.conv_block_out.1.bias"] = (3,)
    return names


@pytest.mark.parametrize("C", [2, 16])
def test_adjscc_has_the_names_and_shapes_of_the_public_checkpoints(C: int) -> None:
    with torch.device("meta"):
        model = ADJSCC(C)
    assert shapes(model) == expected_adjscc(C)


def test_adjscc_quarters_the_sides_and_comes_back() -> None:
    model = ADJSCC(4, in_channels=1, width=16, kernels=(5, 3, 3, 3, 3), edge_width=15, edge_kernel=3)
    x, csnr_db = torch.rand(2, 1, 24, 32), torch.tensor([0.0, 10.0])
    features = model.encode(x, csnr_db)
    assert features.shape == (2, 4, 6, 8)
    assert model.decode(features, csnr_db).shape == x.shape
    assert model(x, csnr_db).min() > 0 and model(x, csnr_db).max() < 1


@pytest.mark.parametrize("inverse", [False, True])
def test_gdn_equals_its_formula(inverse: bool) -> None:
    gdn = GDN(3, inverse)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        gdn.beta.copy_(0.5 + torch.rand(3, generator=generator))
        gdn.gamma.copy_(torch.rand(3, 3, generator=generator))
    x = torch.randn(1, 3, 1, 1, generator=generator)
    beta, gamma = gdn.beta.detach().square(), gdn.gamma.detach().square()
    root = (beta + gamma @ x.flatten().square()).sqrt()
    expected = x.flatten() * root if inverse else x.flatten() / root
    torch.testing.assert_close(gdn(x).flatten(), expected, rtol=1e-5, atol=1e-6)


def test_gdn_parameters_below_their_bound_can_come_back_but_not_fall_further() -> None:
    gdn = GDN(1)
    with torch.no_grad():
        gdn.gamma.fill_(-1.0)
    x = torch.ones(1, 1, 1, 1)
    gdn(x).sum().backward()  # more gamma means a smaller output: the gradient is negative
    assert gdn.gamma.grad is not None
    pulled_up = gdn.gamma.grad.clone()
    gdn.gamma.grad = None
    (-gdn(x).sum()).backward()
    assert float(gdn.gamma.grad) == 0
    assert float(pulled_up) <= 0


def test_snr_attention_depends_on_the_snr_and_scales_channels() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        module = AFModule(31)
    x = torch.rand(2, 31, 4, 4, generator=torch.Generator().manual_seed(5))
    low, high = module(x, torch.tensor([0.0, 0.0])), module(x, torch.tensor([14.0, 14.0]))
    ratio = low / x
    torch.testing.assert_close(ratio, ratio[:, :, :1, :1].expand_as(ratio))
    assert not torch.allclose(low, high)


@pytest.mark.parametrize(
    "options", [{"kernels": (5, 5, 5, 5)}, {"kernels": (5, 4, 5, 5, 5)}, {"edge_kernel": 4}, {"width": 8}]
)
def test_adjscc_refuses_what_it_cannot_build(options: dict) -> None:
    with pytest.raises(ValueError):
        ADJSCC(2, **options)
