"""Properties that hold for every codec."""

import dataclasses

import pytest
import torch

from receiver.bundles.bundle import load_codec
from receiver.codecs.adjscc import AdjsccCodec, AdjsccConfig
from receiver.codecs.codec import Codec, unit_power, weights_digest
from receiver.codecs.evening import block_covariance
from receiver.codecs.linear import LinearCodec
from receiver.codecs.local import LocalCodec, LocalCodecConfig
from receiver.codecs.ntscc import NtsccCodec
from receiver.codecs.pdjscc import PdjsccCodec, PdjsccConfig
from receiver.codecs.playground import PlaygroundCodec, PlaygroundConfig
from receiver.codecs.swinjscc import SwinjsccCodec, SwinjsccRateCodec
from sdr.errors import ConfigError, InputError
from tests.receiver.codecs.public import (
    NTSCC_SHAPE,
    SWIN_SHAPE,
    some_channels,
    some_rates,
    tiny_ntscc,
    tiny_swinjscc,
)

TINY = AdjsccConfig(image_shape=(3, 8, 16), channel_num=4, width=16, kernels=(3, 3, 3, 3, 3), edge_width=16)


def tiny_local() -> LocalCodec:
    config = LocalCodecConfig(
        side=8, features=8, widths=(8, 8), encoder_blocks=(1, 1), decoder_blocks=(1, 1), embedding=8
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LocalCodec(config).for_shape((3, 11, 16))


def told_local() -> LocalCodec:
    """The same with features of which neighbouring blocks tell."""
    codec = tiny_local()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in codec.network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    codec.take_covariance(block_covariance(0.7 * torch.randn(20, 7, 6, 6, generator=generator).cumsum(dim=3), 1))
    return codec


def tiny() -> AdjsccCodec:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AdjsccCodec(TINY)


def tiny_pdjscc() -> PdjsccCodec:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PdjsccCodec(PdjsccConfig(channel_num=4, width=16)).for_shape((3, 11, 14))


def tiny_playground() -> PlaygroundCodec:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PlaygroundCodec(PlaygroundConfig(channel_num=4, width=16)).for_shape((3, 12, 16))


CODECS = {
    "adjscc": tiny,
    "pdjscc": tiny_pdjscc,
    "playground": tiny_playground,
    "swinjscc-none": lambda: SwinjsccCodec(*tiny_swinjscc("none")).for_shape(SWIN_SHAPE),
    "swinjscc-snr": lambda: SwinjsccCodec(*tiny_swinjscc("snr")).for_shape(SWIN_SHAPE),
    "swinjscc-rate": lambda: SwinjsccRateCodec(*tiny_swinjscc("rate")).for_shape(SWIN_SHAPE).given(some_channels()),
    "swinjscc-both": lambda: SwinjsccRateCodec(*tiny_swinjscc("both")).for_shape(SWIN_SHAPE).given(some_channels()),
    "ntscc-plus": lambda: NtsccCodec(*tiny_ntscc(compat=False)).for_shape(NTSCC_SHAPE).given(some_rates()),
    "ntscc-compat": lambda: NtsccCodec(*tiny_ntscc(compat=True)).for_shape(NTSCC_SHAPE).given(some_rates()),
    "local": tiny_local,
    "local, told of symbols": told_local,
    "shipped": load_codec,
    "linear": lambda: LinearCodec((1, 8, 8), 16, torch.Generator().manual_seed(0)),
}


@pytest.fixture(params=sorted(CODECS))
def codec(request: pytest.FixtureRequest) -> Codec:
    return CODECS[request.param]()


def images_for(codec: Codec, count: int = 3, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, *codec.image_shape, generator=torch.Generator().manual_seed(seed))


def test_symbols_are_complex_with_unit_mean_power_per_image(codec: Codec) -> None:
    z = codec.encode(images_for(codec), 10.0)
    assert z.shape == (3, codec.num_symbols) and z.dtype == torch.complex64
    torch.testing.assert_close(z.abs().square().mean(dim=1), torch.ones(3), rtol=1e-5, atol=1e-5)


def test_decoding_gives_images_of_the_shape_that_went_in(codec: Codec) -> None:
    images = images_for(codec)
    out = codec.decode(codec.encode(images, 5.0), 5.0)
    assert out.shape == images.shape and out.dtype == torch.float32


def test_a_codec_is_made_for_the_shapes_it_takes(codec: Codec) -> None:
    shape = codec.image_shape
    assert all(wanted in (None, own) for wanted, own in zip(codec.accepted_shape, shape, strict=True))
    assert codec.for_shape(shape).num_symbols == codec.num_symbols and codec.for_shape(shape).digest == codec.digest
    with pytest.raises(InputError, match="takes images of shape"):
        codec.for_shape((7, *shape[1:]))


def test_images_of_a_batch_do_not_touch_each_other(codec: Codec) -> None:
    images, csnr_db = images_for(codec), torch.tensor([0.0, 7.0, 14.0])
    together = codec.encode(images, csnr_db)
    alone = torch.cat([codec.encode(images[i : i + 1], float(csnr_db[i])) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)
    back = codec.decode(together, csnr_db)
    torch.testing.assert_close(back[1:2], codec.decode(together[1:2], 7.0), rtol=1e-3, atol=1e-4)


def test_gradients_reach_the_image_and_know_about_the_power_normalisation(codec: Codec) -> None:
    images = images_for(codec, 1).requires_grad_()
    z = codec.encode(images, 10.0)
    # The power is 1 whatever the image is, so its gradient vanishes; that of anything else does not.
    (power_gradient,) = torch.autograd.grad(z.abs().square().sum(), images, retain_graph=True)
    (gradient,) = torch.autograd.grad(z.real.sum(), images)
    assert float(gradient.norm()) > 0
    assert float(power_gradient.norm()) < 1e-3 * float(gradient.norm()) * codec.num_symbols


def test_the_gradient_equals_a_finite_difference(codec: Codec) -> None:
    images = images_for(codec, 1)
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(2))
    target = torch.complex(*torch.randn(2, 1, codec.num_symbols, generator=torch.Generator().manual_seed(3)))

    def distance(x: torch.Tensor) -> torch.Tensor:
        return (codec.encode(x, 10.0) - target).abs().square().sum()

    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(distance(leaf), leaf)
    step = 1e-2
    with torch.no_grad():
        numeric = (distance(images + step * direction) - distance(images - step * direction)) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float(numeric), rel=0.05, abs=0.02)


def test_a_codec_is_deterministic_and_its_digest_is_stable(codec: Codec, request: pytest.FixtureRequest) -> None:
    twin = CODECS[request.node.callspec.params["codec"]]()
    images = images_for(codec)
    assert torch.equal(codec.encode(images, 3.0), twin.encode(images, 3.0))
    assert codec.digest == twin.digest
    assert len(codec.digest) == 8 and int(codec.digest, 16) >= 0


@pytest.mark.parametrize("shape", [(1, 2, 8, 8), (2, 1, 9, 8), (1, 8, 8)])
def test_images_of_another_shape_are_refused(codec: Codec, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="shape"):
        codec.encode(torch.zeros(shape), 10.0)


def test_symbols_of_another_number_or_kind_are_refused(codec: Codec) -> None:
    with pytest.raises(InputError, match="complex symbols"):
        codec.decode(torch.zeros(1, codec.num_symbols + 1, dtype=torch.complex64), 10.0)
    with pytest.raises(InputError, match="complex symbols"):
        codec.decode(torch.zeros(1, codec.num_symbols), 10.0)


def test_csnr_is_one_number_or_one_per_image(codec: Codec) -> None:
    with pytest.raises(InputError, match="csnr_db"):
        codec.encode(images_for(codec), torch.zeros(2))


def test_a_csnr_for_all_for_each_image_and_for_each_symbol_are_the_same(codec: Codec) -> None:
    z, csnr_db = codec.encode(images_for(codec), 7.0), torch.full((3,), 7.0)
    noisy = z + 0.3 * torch.randn(z.shape, generator=torch.Generator().manual_seed(5), dtype=z.dtype)
    out = codec.decode(noisy, 7.0)
    torch.testing.assert_close(codec.decode(noisy, csnr_db), out, rtol=1e-4, atol=1e-5)
    each = csnr_db[:, None].expand(z.shape)
    if codec.takes_symbol_csnr:
        torch.testing.assert_close(codec.decode(noisy, each), out, rtol=1e-3, atol=1e-4)
    else:
        with pytest.raises(InputError, match="csnr_db has shape"):
            codec.decode(noisy, each)


@torch.no_grad()
def test_a_symbol_that_is_told_to_be_noisy_counts_for_less() -> None:
    codec = told_local()
    z, told = codec.encode(images_for(codec), 10.0), torch.full((3, codec.num_symbols), 10.0)
    changed, weak = z.clone(), told.clone()
    changed[:, 5] += 1
    weak[:, 5] = -40
    moved, kept = ((codec.decode(changed, csnr) - codec.decode(z, csnr)).abs().max() for csnr in (told, weak))
    assert float(kept) < 0.05 * float(moved)
    with pytest.raises(InputError, match="Give one each"):
        codec.decode(z, told[:, 1:])


def test_the_images_of_a_batch_are_told_apart() -> None:
    codec = told_local()
    z = codec.encode(images_for(codec), 10.0)
    told = 20 * torch.rand(z.shape, generator=torch.Generator().manual_seed(6))
    torch.testing.assert_close(codec.decode(z, told)[1:2], codec.decode(z[1:2], told[1:2]), rtol=1e-3, atol=1e-4)


def test_lost_symbols_do_not_reach_what_arrived() -> None:
    """A block that was lost comes out as if nothing were known of it, in a batch as alone."""
    codec = told_local()
    z, told = codec.encode(images_for(codec), 10.0), torch.full((3, codec.num_symbols), 10.0)
    z[1], told[1] = 0, -100
    out = codec.decode(z, told)
    assert bool(out.isfinite().all())
    torch.testing.assert_close(out[2:], codec.decode(z[2:], told[2:]))


def test_covariances_of_other_features_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"shape \(3, 3, 5, 5\), needed is \(7, 7, n, n\)"):
        tiny_local().take_covariance(torch.zeros(3, 3, 5, 5))
    with pytest.raises(ConfigError, match="variances above 0"):
        tiny_local().take_covariance(torch.zeros(7, 7, 5, 5))
    with pytest.raises(ConfigError, match="family adjscc has no features of blocks"):
        tiny().take_covariance(torch.zeros(7, 7, 5, 5))


def test_the_digest_sees_weights_and_configuration() -> None:
    codec, state = tiny(), tiny().network.state_dict()
    config = dataclasses.asdict(TINY)
    assert codec.digest == weights_digest(config, state)
    assert codec.digest != weights_digest({**config, "width": 17}, state)
    first = next(iter(state))
    assert codec.digest != weights_digest(config, {**state, first: state[first] + 1})
    rounded = {key: value.half().float() for key, value in state.items()}
    assert codec.digest == weights_digest(config, rounded)


def test_unit_power_survives_an_all_zero_row() -> None:
    z = torch.zeros(1, 4, dtype=torch.complex64, requires_grad=True)
    out = unit_power(z)
    out.real.sum().backward()
    assert torch.equal(out, torch.zeros_like(out)) and z.grad is not None and bool(z.grad.isfinite().all())


def test_the_linear_codec_is_an_isometry_and_its_decoder_the_adjoint() -> None:
    codec = LinearCodec((1, 8, 8), 16, torch.Generator().manual_seed(0), normalise=False, scale=2.0)
    torch.testing.assert_close(codec.matrix @ codec.matrix.T, torch.eye(32), rtol=0, atol=1e-5)
    z = codec.encode(images_for(codec, 2), 10.0)
    torch.testing.assert_close(codec.encode(codec.decode(z, 10.0), 10.0), z, rtol=1e-4, atol=1e-5)


def test_the_linear_codec_loses_nothing_when_it_has_a_real_for_every_pixel() -> None:
    codec = LinearCodec((1, 4, 4), 8, torch.Generator().manual_seed(0), normalise=False)
    images = images_for(codec)
    torch.testing.assert_close(codec.decode(codec.encode(images, 0.0), 0.0), images, rtol=1e-4, atol=1e-5)


def test_the_shipped_codec_reconstructs_held_out_images() -> None:
    from lab.evaluation.metrics import psnr_db
    from lab.training.channel import transmit_awgn
    from receiver.bundles.bundle import find_bundle
    from receiver.images.files import load_image_folder

    codec = load_codec()
    _, images = load_image_folder(find_bundle() / "samples", codec.image_shape)
    generator = torch.Generator().manual_seed(5)
    means = []
    with torch.no_grad():
        for csnr_db in (0.0, 5.0, 10.0, 14.0):
            out = transmit_awgn(codec, images, torch.full((len(images),), csnr_db), generator)
            means.append(float(psnr_db(out.clamp(0, 1), images).mean()))
    assert means == sorted(means)
    assert means[0] > 18.5 and means[2] > 21.5


@pytest.mark.parametrize(
    "options",
    [{"image_shape": (1, 30, 32)}, {"image_shape": (32, 32)}, {"channel_num": 1, "image_shape": (1, 4, 4)}],
)
def test_impossible_configurations_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError):
        AdjsccConfig(**options)


def test_a_network_that_cannot_be_built_is_one_line() -> None:
    with pytest.raises(ConfigError, match="15 channels"):
        AdjsccCodec(dataclasses.replace(TINY, width=8))


def test_the_linear_codec_needs_enough_pixels() -> None:
    with pytest.raises(ConfigError, match="pixels"):
        LinearCodec((1, 4, 4), 9, torch.Generator())
