"""Local networks, the codec and the prior of them: any size, exact tiles, bounded reach."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from receiver.codecs.codec import weights_digest
from receiver.codecs.local import LocalCodec, LocalCodecConfig
from receiver.networks.local import LocalDecoder, LocalEncoder, LocalUNet, Network, in_tiles
from receiver.priors.local import LocalDenoiser, LocalPriorConfig
from sdr.errors import ConfigError, InputError

WIDTHS = (4, 4)
SIDE = 8  # pixels per side behind a position of the innermost of two levels
NETWORKS: dict[str, tuple[Callable[[], Network], int, int]] = {  # how to make it, channels in, pixels of a position
    "encoder": (lambda: LocalEncoder(3, SIDE, WIDTHS, (1, 1), 4, 8), 3, 1),
    "linear": (lambda: LocalDecoder(3, SIDE, (), (), 4, 8), 4, SIDE),
    "decoder": (lambda: LocalDecoder(3, SIDE, WIDTHS, (1, 1), 4, 8), 4, SIDE),
    "local wiener": (lambda: LocalDecoder(3, SIDE, WIDTHS, (0, 1), 4, 8, local_wiener=True), 4, SIDE),
    "unet": (lambda: LocalUNet(3, WIDTHS, (1, 1), 8), 3, 1),
    "unfolded unet": (lambda: LocalUNet(3, (4, 4, 4, 4), (1, 1, 1, 1), 8, fold=1), 3, 1),
}
CODEC = LocalCodecConfig(
    side=SIDE, features=4, widths=WIDTHS, encoder_blocks=(1, 1), decoder_blocks=(0, 1), embedding=8
)
PRIOR = LocalPriorConfig(widths=WIDTHS, blocks=(1, 1), embedding=8)


def _random(module: torch.nn.Module, seed: int = 0) -> None:
    """Weights that leave no layer at zero."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        with torch.no_grad():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


def codec() -> LocalCodec:
    made = LocalCodec(CODEC)
    _random(made)
    return made.eval()


def denoiser() -> LocalDenoiser:
    made = PRIOR.denoiser()
    _random(made)
    return made.eval()


def _built(name: str) -> tuple[Network, Callable[[int, int], Tensor]]:
    make, channels, side = NETWORKS[name]
    network = make().double()
    _random(network)

    def data(height: int, width: int) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.rand(1, channels, height // side, width // side, generator=generator, dtype=torch.float64)

    return network, data


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_tiles_give_what_the_whole_image_gives(name: str) -> None:
    network, data = _built(name)
    x, level = data(136, 72), torch.tensor([0.3], dtype=torch.float64)
    with torch.no_grad():
        whole, tiled = network(x, level), in_tiles(network, x, level, limit=0, tile=24)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_tiles_have_the_gradient_of_the_whole_image(name: str) -> None:
    network, data = _built(name)
    x, level = data(104, 48).requires_grad_(), torch.tensor([0.3], dtype=torch.float64)
    (whole,) = torch.autograd.grad(network(x, level).square().sum(), x)
    (tiled,) = torch.autograd.grad(in_tiles(network, x, level, limit=0, tile=32).square().sum(), x)
    torch.testing.assert_close(tiled, whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_no_output_depends_on_more_than_the_stated_reach(name: str) -> None:
    network, data = _built(name)
    x = data(SIDE * (2 * network.reach + 5), 3 * SIDE).requires_grad_()
    out = network(x, torch.tensor([0.3], dtype=torch.float64))
    side_in, side_out = SIDE // network.input_side, SIDE // network.output_side
    middle = network.reach + 2
    (gradient,) = torch.autograd.grad(out[:, :, middle * side_out : (middle + 1) * side_out].sum(), x)
    touched = torch.nonzero(gradient.abs().sum(dim=(0, 1, 3))).flatten() // side_in
    assert int(touched.min()) >= middle - network.reach and int(touched.max()) <= middle + network.reach


@pytest.mark.parametrize("size", [(8, 8), (9, 8), (15, 23), (24, 17)])
def test_any_size_is_coded_and_comes_back_with_that_size(size: tuple[int, int]) -> None:
    fitting = codec().for_shape((3, *size))
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(2))
    z = fitting.encode(images, 7.0)
    assert z.shape == (2, fitting.num_symbols) and fitting.num_symbols == -(-size[0] // SIDE) * -(-size[1] // SIDE) * 2
    torch.testing.assert_close(z.abs().square().mean(dim=1), torch.ones(2), rtol=1e-5, atol=1e-5)
    assert fitting.decode(z, 7.0).shape == images.shape


def test_padding_repeats_the_edge() -> None:
    made = codec()
    image = torch.rand(1, 3, 20, 30, generator=torch.Generator().manual_seed(3))
    padded = torch.cat([image, image[:, :, -1:].expand(-1, -1, 4, -1)], dim=2)
    padded = torch.cat([padded, padded[..., -1:].expand(-1, -1, -1, 2)], dim=3)
    torch.testing.assert_close(
        made.for_shape((3, 20, 30)).encode(image, 5.0), made.for_shape((3, 24, 32)).encode(padded, 5.0)
    )


def test_shapes_that_no_code_has_are_one_line() -> None:
    made = codec()
    with pytest.raises(InputError, match="takes images of shape 3xanyxany, found 1x32x32"):
        made.for_shape((1, 32, 32))
    with pytest.raises(InputError, match="7x32 pixels, at least 8x8"):
        made.for_shape((3, 32, 7))
    with pytest.raises(ConfigError, match="no image shape"):
        _ = made.num_symbols
    with pytest.raises(ConfigError, match="even number of features"):
        LocalCodecConfig(features=3)
    with pytest.raises(ConfigError, match="same levels"):
        LocalCodecConfig(side=8, widths=(8, 8)).network()
    with pytest.raises(ConfigError, match="local_wiener needs widths"):
        LocalCodecConfig(side=8, local_wiener=True).network()


def test_one_codec_has_one_digest_whatever_the_size() -> None:
    made = codec()
    assert made.digest == made.for_shape((3, 32, 32)).digest == made.for_shape((3, 64, 48)).digest


def test_a_switch_that_is_off_leaves_the_digest_as_it_was_and_one_that_is_on_does_not() -> None:
    made = codec()
    described = {name: value for name, value in vars(CODEC).items() if name != "local_wiener"}
    assert made.digest == weights_digest(described, made.network.state_dict())
    on = LocalCodec(replace(CODEC, local_wiener=True))
    assert on.digest == weights_digest(vars(on.config), on.network.state_dict())


def test_the_local_wiener_filter_shrinks_where_features_do_not_stand_out_of_the_noise() -> None:
    decoder = LocalDecoder(3, SIDE, WIDTHS, (0, 0), 4, 8, local_wiener=True)
    assert decoder.direct.bias is not None and decoder.gain.bias is not None
    with torch.no_grad():
        decoder.enter.weight.zero_()
        decoder.prominence.weight.fill_(0.1)
        decoder.gain.weight.fill_(0.1)
        decoder.gain.bias.fill_(-2)
        # Of weights of both signs some pixel might be nearly 0, and the share of that anything.
        decoder.direct.weight.fill_(0.1)
        decoder.direct.bias.zero_()
        features = torch.cat([torch.full((1, 4, 7, 7), 0.01), torch.full((1, 4, 7, 7), 4.0)], dim=3)
        found = decoder(features, torch.tensor([10.0]))
        decoder.local_wiener = False
        plain = decoder(features, torch.tensor([10.0]))
    share = (found / plain)[:, :, 3 * SIDE : 4 * SIDE]
    even, busy = share[..., 2 * SIDE : 4 * SIDE], share[..., 10 * SIDE : 12 * SIDE]
    assert float(even.max()) < 0.4 and float(busy.min()) > 1.5


@pytest.mark.parametrize("size", [(8, 8), (11, 21)])
def test_the_prior_takes_any_size_and_an_untrained_one_shrinks_the_noise(size: tuple[int, int]) -> None:
    x_t = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(4)).requires_grad_()
    t = torch.tensor([1, 1000])
    out = denoiser().for_shape((3, *size))(x_t, t)
    assert out.shape == x_t.shape
    (gradient,) = torch.autograd.grad(out.square().sum(), x_t)
    assert bool(gradient.isfinite().all()) and float(gradient.abs().max()) > 0
    # Before any training the velocity is 0, so the estimate is the signal's share of x_t.
    fresh = PRIOR.denoiser()
    with torch.no_grad():
        torch.testing.assert_close(fresh(x_t, t), fresh.schedule.coefficients(t, x_t)[0] * x_t)


@pytest.mark.parametrize("side", [SIDE, 40, 1100])
def test_every_symbol_belongs_to_one_block_and_blocks_stay_within_a_frame(side: int) -> None:
    bound = codec().for_shape((3, side, side))
    places = bound.words.places
    assert sorted(places.flatten().tolist()) == list(range(bound.num_symbols))
    assert bool((places // 4096 == places[:, :1] // 4096).all())


def test_a_block_of_the_image_is_sent_by_its_word() -> None:
    made = LocalCodec(LocalCodecConfig(side=SIDE, features=4))  # linear: blocks don't reach into each other
    _random(made)
    bound = made.eval().for_shape((3, 40, 24))
    images = torch.rand(1, 3, 40, 24, generator=torch.Generator().manual_seed(3))
    changed = images.clone()
    changed[:, :, 8:16, 16:24] = 0  # second row, third column of blocks: the sixth
    with torch.no_grad():
        before, after = (bound.encode(x, 10.0)[0, bound.words.places] for x in (images, changed))
    ratio = after / before  # the others are scaled, all alike, but for the level that tells of it
    others = torch.cat([ratio[:5], ratio[6:]])[:, :-1].abs()
    assert float(others.std()) < 1e-5 and float((ratio[5, 0].abs() - others[0, 0]).abs()) > 1e-3


def test_the_decoder_knows_the_scale_of_an_image_and_its_noise() -> None:
    made = codec()
    bound = made.for_shape((3, 40, 24))
    images = torch.rand(2, 3, 40, 24, generator=torch.Generator().manual_seed(3))
    images[1] /= 4
    with torch.no_grad():
        sent = made.network.encoder(images, torch.full((2,), 10.0))
        power = sent.square().mean(dim=(1, 2, 3))
        made.network.log_scale_mean.copy_(power.log().mean() / 2)
        made.network.log_scale_std.fill_(0.5)
        features, csnr_db = bound.received_features(bound.encode(images, 10.0), 10.0)
    torch.testing.assert_close(features, sent, rtol=1e-3, atol=1e-5)
    # Of a power of 2 the three features have less than all, and more than 3 / (3 + 2.25**2).
    of_one = csnr_db + 10 * power.log10()
    assert bool((of_one < 10 + 10 * math.log10(2 / 3)).all())
    assert bool((of_one > 10 + 10 * math.log10(2 / (3 + 2.25**2))).all())


def test_resolution_is_doubled_as_by_a_pixel_shuffle() -> None:
    layer = LocalUNet(3, (5, 6), (1, 1), 8).ups[0]
    assert isinstance(layer, torch.nn.Sequential)
    x = torch.randn(2, 6, 4, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x), torch.nn.Sequential.forward(layer, x))
