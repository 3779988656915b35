"""Codecs that send images at different rates, and what their receivers must know."""

import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from receiver.codecs.ntscc import NtsccAtRates, NtsccCodec, NtsccConfig, RateMap
from receiver.codecs.pdjscc import PdjsccCodec, PdjsccConfig
from receiver.codecs.side_information import Coded
from receiver.codecs.swinjscc import SentChannels, SwinjsccCodec, SwinjsccConfig, SwinjsccRateCodec, mean_power
from receiver.networks.ntscc import RATES
from sdr.errors import ConfigError, InputError
from tests.receiver.codecs.public import (
    NTSCC_SHAPE,
    SWIN_SHAPE,
    some_channels,
    some_rates,
    tiny_ntscc,
    tiny_swinjscc,
)

CODECS = {
    "swinjscc-rate": lambda: SwinjsccRateCodec(*tiny_swinjscc("rate")).for_shape(SWIN_SHAPE),
    "swinjscc-both": lambda: SwinjsccRateCodec(*tiny_swinjscc("both")).for_shape(SWIN_SHAPE),
    "ntscc-plus": lambda: NtsccCodec(*tiny_ntscc(compat=False)).for_shape(NTSCC_SHAPE),
    "ntscc-compat": lambda: NtsccCodec(*tiny_ntscc(compat=True)).for_shape(NTSCC_SHAPE),
}


@pytest.fixture(params=sorted(CODECS))
def codec(request):
    return CODECS[request.param]()


def image_for(codec, seed=1):
    return torch.rand(codec.image_shape, generator=torch.Generator().manual_seed(seed))


# Properties of every codec with side information


def test_an_image_becomes_symbols_of_unit_power_and_its_side_information(codec):
    with torch.no_grad():
        coded = codec.encode_image(image_for(codec), 10.0)
    assert coded.z.ndim == 1 and coded.z.dtype == torch.complex64
    assert float(coded.z.abs().square().mean()) == pytest.approx(1, abs=1e-5)
    assert len(coded.z) == codec.given(coded.side).num_symbols
    assert codec.decode_image(coded, 10.0).shape == codec.image_shape


def test_encoding_again_with_the_side_information_gives_the_same_symbols(codec):
    image = image_for(codec)
    with torch.no_grad():
        coded = codec.encode_image(image, 10.0)
        again = codec.given(coded.side).encode(image[None], 10.0)[0]
    torch.testing.assert_close(again, coded.z, rtol=1e-4, atol=1e-5)


def test_side_information_comes_back_from_its_bytes(codec):
    with torch.no_grad():
        coded = codec.encode_image(image_for(codec), 10.0)
        side = codec.read_side(coded.side.to_bytes())
        assert side.to_bytes() == coded.side.to_bytes() and side.power == coded.side.power
        assert torch.equal(codec.decode_image(Coded(coded.z, side), 10.0), codec.decode_image(coded, 10.0))


def test_damaged_side_information_is_refused(codec):
    data = codec.encode_image(image_for(codec), 10.0).side.to_bytes()
    powers = [struct.pack("<f", power) for power in (0.0, -1.0, float("nan"), float("inf"))]
    for wrong in (b"", data[:3], data + b"\0", data + bytes(10**7), *(power + data[4:] for power in powers)):
        with pytest.raises(InputError, match=r"Receive|[Rr]aise"):
            codec.read_side(wrong)


def test_the_decoder_gets_features_at_the_scale_of_the_encoder(codec):
    """The whole way of symbols, power and packing leaves the features as they were."""
    image, network = image_for(codec), codec.network
    with torch.no_grad():
        coded = codec.encode_image(image, 10.0)
        csnr_db = torch.tensor([10.0])
        if isinstance(codec, NtsccCodec):
            level, index = codec.config.level, coded.side.index[None]
            features = network.features(network.latents(image[None], level), index, csnr_db)
            wanted = network.decode(features, index, csnr_db, level)
        else:
            features, _ = network.encode(image[None], csnr_db, codec.config.rate)
            wanted = network.decode(features, csnr_db)
        torch.testing.assert_close(codec.decode_image(coded, 10.0), wanted[0], rtol=1e-4, atol=1e-4)


def test_a_given_map_stands_whatever_the_image(codec):
    """Hypotheses of a sampler are encoded with the map that was received, not with the one that would fit them."""
    with torch.no_grad():
        coded = codec.encode_image(image_for(codec), 10.0)
        other = codec.encode_image(image_for(codec, 2).round(), 10.0)
        fixed = codec.given(coded.side)
        z = fixed.encode(torch.stack([image_for(codec, 3), image_for(codec, 4)]), 10.0)
    assert z.shape == (2, len(coded.z))
    assert fixed.digest == codec.digest
    assert other.side.to_bytes() != coded.side.to_bytes()


def test_a_codec_has_no_size_before_for_shape(codec):
    unbound = type(codec)(codec.config, codec.network)
    assert unbound.accepted_shape == (3, None, None)
    with pytest.raises(ConfigError, match="for_shape"):
        _ = unbound.image_shape
    _, height, width = codec.image_shape
    with pytest.raises(InputError, match="Crop or resize"):
        unbound.for_shape((3, height + 1, width))


# SwinJSCC


@given(st.lists(st.booleans(), min_size=1, max_size=400).filter(any), st.floats(1e-6, 1e6))
def test_channels_come_back_from_their_bytes(channels, power):
    side = SentChannels(torch.tensor(channels), power)
    data = side.to_bytes()
    assert len(data) == 4 + -(-len(channels) // 8)
    back = SentChannels.from_bytes(data, len(channels))
    assert torch.equal(back.channels, side.channels) and back.power == side.power


def test_channels_that_cannot_be_are_refused():
    side = some_channels()
    with pytest.raises(InputError, match="more than 12"):
        SentChannels.from_bytes(side.to_bytes()[:-1] + b"\xff", 12)
    with pytest.raises(InputError, match="one that is true"):
        SentChannels(torch.zeros(4, dtype=torch.bool), 1.0)
    with pytest.raises(InputError, match="12 channels, the codec has 16"):
        config = SwinjsccConfig("rate", 6, widths=(8, 16), depths=(1, 1), heads=(2, 2), side=2)
        SwinjsccRateCodec(config).for_shape(SWIN_SHAPE).given(side)


def test_swinjscc_sends_as_many_channels_as_its_rate():
    config, network = tiny_swinjscc("both")
    with torch.no_grad():
        coded = SwinjsccRateCodec(config, network).for_shape(SWIN_SHAPE).encode_image(torch.rand(SWIN_SHAPE), 3.0)
    assert int(coded.side.channels.sum()) == config.rate
    # 16x24 pixels in steps of 4, two reals a symbol.
    assert len(coded.z) == 4 * 6 * config.rate // 2


def test_a_fixed_rate_network_decodes_at_its_own_power():
    config, network = tiny_swinjscc("none")
    images = torch.rand(1, *SWIN_SHAPE, generator=torch.Generator().manual_seed(1))
    power = mean_power(network, images, 10.0)
    codec = SwinjsccCodec(SwinjsccConfig(**{**vars(config), "feature_power": power}), network).for_shape(SWIN_SHAPE)
    with torch.no_grad():
        wanted = network.decode(network.encode(images, torch.tensor([10.0]))[0], torch.tensor([10.0]))
        torch.testing.assert_close(codec.decode(codec.encode(images, 10.0), 10.0), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [{"side": 3}, {"rate": 0}, {"rate": 400}, {"feature_power": 0.0}, {"widths": ()}, {"adapts": "snr", "side": 5}],
)
def test_swinjscc_configurations_that_cannot_be_are_refused(options):
    with pytest.raises(ConfigError):
        SwinjsccConfig(**options)


def test_swinjscc_networks_that_cannot_be_are_refused():
    for options in ({"adapts": "everything"}, {"depths": (2, 2)}, {"heads": (3, 6, 8, 10)}):
        with pytest.raises(ConfigError), torch.device("meta"):
            SwinjsccConfig(**options).network()


def test_each_kind_of_swinjscc_has_its_codec():
    with pytest.raises(ConfigError, match="SwinjsccRateCodec"):
        SwinjsccCodec(*tiny_swinjscc("both"))
    with pytest.raises(ConfigError, match="SwinjsccCodec"):
        SwinjsccRateCodec(*tiny_swinjscc("snr"))


@pytest.mark.parametrize("adapts", ["snr", "both"])
def test_the_public_gradient_of_the_modulation_can_be_had(adapts):
    config, network = tiny_swinjscc(adapts)
    public = type(network)(adapts, config.rate, 3, config.widths, config.depths, config.heads, config.side, detach=True)
    public.load_state_dict(network.state_dict())
    gradients, csnr_db = [], torch.tensor([5.0])
    for kind in (network, public):
        images = torch.rand(1, *SWIN_SHAPE, generator=torch.Generator().manual_seed(1), requires_grad=True)
        features, _ = kind.encode(images, csnr_db, config.rate)
        gradients.append(torch.autograd.grad(features.square().sum(), images)[0])
        assert torch.equal(features, network.encode(images, csnr_db, config.rate)[0])
    assert not torch.allclose(*gradients)


# NTSCC+


@given(st.integers(1, 6), st.integers(1, 8), st.randoms(use_true_random=False), st.floats(1e-6, 1e6))
def test_maps_of_rates_come_back_from_their_bytes(rows, columns, random, power):
    index = torch.tensor([random.randrange(1, len(RATES)) for _ in range(2 * rows * columns)])
    side = RateMap(index.view(2, rows, columns), power)
    data = side.to_bytes()
    back = RateMap.from_bytes(data, (2, rows, columns))
    assert torch.equal(back.index, side.index) and back.power == side.power
    assert len(data) <= 8 + 2 * index.numel()


def test_maps_of_rates_that_cannot_be_are_refused():
    for index in (torch.full((2, 4, 4), 26), torch.full((2, 4, 4), -1), torch.zeros(3, 4, 4), torch.zeros(2, 4)):
        with pytest.raises(InputError, match="map of rates"):
            RateMap(index, 1.0)
    with pytest.raises(InputError, match="Raise eta"):
        RateMap(torch.zeros(2, 4, 4, dtype=torch.int64), 1.0)
    with pytest.raises(InputError, match="own shape"):
        NtsccCodec(*tiny_ntscc(compat=False)).for_shape((3, 256, 64)).given(some_rates())


def test_a_smooth_map_takes_few_bytes():
    """A map that hardly changes costs about a bit a position, five where every rate is as likely."""
    index = torch.full((2, 16, 32), 20)
    index[:, ::4, ::4] = 21
    assert len(RateMap(index, 1.0).to_bytes()) < index.numel() / 8


@pytest.mark.parametrize("compat", [False, True])
def test_ntscc_sends_more_for_a_larger_eta_and_nothing_for_almost_none(compat):
    config, network = tiny_ntscc(compat)
    image, counts = torch.rand(NTSCC_SHAPE, generator=torch.Generator().manual_seed(1)), []
    for eta in (0.02, 0.1, 0.4):
        codec = NtsccCodec(NtsccConfig(compat, eta, config.level), network).for_shape(NTSCC_SHAPE)
        counts.append(len(codec.encode_image(image, 10.0).z))
    assert counts[0] < counts[1] < counts[2]
    with pytest.raises(InputError, match="Raise eta"):
        NtsccCodec(NtsccConfig(compat, 1e-9), network).for_shape(NTSCC_SHAPE).encode_image(image, 10.0)


def test_a_position_at_the_lowest_rate_sends_nothing():
    side = some_rates()
    codec = NtsccAtRates(*tiny_ntscc(compat=False), side).for_shape(NTSCC_SHAPE)
    rates = torch.tensor(RATES)[side.index]
    assert codec.num_symbols == int(rates[rates > 1].sum()) // 2


@pytest.mark.parametrize(
    "options", [{"eta": 0.0}, {"eta": float("nan")}, {"level": 5.0}, {"compat": True, "level": 100}]
)
def test_ntscc_configurations_that_cannot_be_are_refused(options):
    with pytest.raises(ConfigError):
        NtsccConfig(**options)


# PDJSCC


def test_pdjscc_reflects_at_the_right_and_bottom():
    codec = PdjsccCodec(PdjsccConfig(width=16))
    image = torch.rand(1, 3, 10, 13)
    rows, columns = torch.tensor([*range(10), 8, 7]), torch.tensor([*range(13), 11, 10, 9])
    larger = image[:, :, rows][..., columns]
    with torch.no_grad():
        z = codec.for_shape((3, 10, 13)).encode(image, 4.0)
        torch.testing.assert_close(z, codec.for_shape((3, 12, 16)).encode(larger, 4.0))
        back = codec.for_shape((3, 12, 16)).decode(z, 4.0)
        assert torch.equal(codec.for_shape((3, 10, 13)).decode(z, 4.0), back[:, :, :10, :13])


def test_pdjscc_refuses_what_it_cannot_build_or_take():
    for options in ({"channel_num": 3}, {"channel_num": 0}, {"channels": 0}):
        with pytest.raises(ConfigError):
            PdjsccConfig(**options)
    with pytest.raises(ConfigError, match="attention"):
        PdjsccConfig(width=8).network()
    with pytest.raises(InputError, match="at least 4x4"):
        PdjsccCodec(PdjsccConfig(width=16)).for_shape((3, 3, 8))
