"""Images by an image codec and LDPC through frames, beside those of the JSCC codec, and into the receiver."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from receiver.bundles.bundle import Bundle, load_bundle
from receiver.decode import decode_recording
from receiver.images.files import load_image_folder
from receiver.separation.chain import MEAN_COLOUR, Chain, chain_of
from receiver.separation.methods import SEPARATION_METHODS
from receiver.separation.schemes import FIXED_SCHEME, SCHEMES
from sdr.errors import ConfigError, ModelError
from sdr.layout import load_layout
from sdr.radios.open import open_radio
from sdr.recordings.recording import Recording
from transmitter.encode import Transmission, encode_images
from transmitter.separation import SchemeTable, TableRow, choose_chain, encode_separately, load_table

LAYOUT = load_layout("photo")
FADING = "taps=8,decay=4,cfo_hz=300"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle("photo")


@pytest.fixture(scope="module")
def originals(bundle: Bundle) -> dict[str, Tensor]:
    """Parts of four photographs: 256 symbols each."""
    ids, images = load_image_folder(bundle.samples, bundle.accepted_shape)
    return dict(zip(ids[:4], images[:4, :, 64:128, 64:128], strict=True))


def transmission(
    bundle: Bundle, originals: dict[str, Tensor], methods: tuple[str, ...], csnr_db: float
) -> Transmission:
    ids, images = list(originals), list(originals.values())
    symbols = list(encode_images(ids, images, bundle.codec, LAYOUT, csnr_db).symbols)
    for name in methods:
        method = SEPARATION_METHODS[name]
        symbols += encode_separately(ids, images, method, bundle.codec, LAYOUT, csnr_db, fading=True).symbols
    return Transmission.of(symbols, LAYOUT)


def record(sent: Transmission, options: str) -> Recording:
    with open_radio(f"sim:{options}", layout=LAYOUT) as radio:
        radio.transmit(sent.samples())
        return radio.receive()


def test_both_kinds_arrive_in_one_recording(bundle: Bundle, originals: dict[str, Tensor]) -> None:
    sent = transmission(bundle, originals, ("avif-ldpc", "hevc-ldpc-fixed"), 20.0)
    assert sent.ids == tuple(originals)
    assert {symbols.symbols_per_image for symbols in sent.symbols} == {256}, "as many as the JSCC codec uses"
    assert len({frame.header.codec_digest for frame in sent.frames}) == 3, "the header says which it is"
    recording = record(sent, f"csnr_db=20,seed=1,{FADING}")
    methods = ("jscc", "avif-ldpc", "avif-ldpc-refined", "hevc-ldpc-fixed", "vvc-ldpc")
    result = decode_recording(recording, LAYOUT, bundle, methods)
    arrived = [(image.method, image.id) for image in result.images]
    assert arrived == [(method, image) for method in methods[:4] for image in originals]
    for image in result.images[4:]:
        error = float((torch.from_numpy(image.image) - originals[image.id]).square().mean())
        assert image.accepted and 0.7 < image.residual < 1.4
        if image.method != "avif-ldpc-refined":
            assert abs(-10 * np.log10(error) - image.expected_psnr_db) < 0.2, "the block states the codec's own error"
        assert error < 0.02


def test_a_lost_block_is_a_lost_image(bundle: Bundle, originals: dict[str, Tensor]) -> None:
    """The channel is 14 dB worse than the transmitter was told."""
    sent = transmission(bundle, originals, ("jpeg2000-ldpc-fixed",), 14.0)
    result = decode_recording(record(sent, "csnr_db=0,seed=1"), LAYOUT, bundle, ["jpeg2000-ldpc-fixed"])
    assert [image.id for image in result.images] == list(originals)
    for image in result.images:
        assert not image.accepted and np.isfinite(image.residual)
        assert np.allclose(image.image.mean(axis=(1, 2)), MEAN_COLOUR[3], atol=1e-6)
        assert image.image.std(axis=(1, 2)).max() < 1e-6


def test_unknown_codecs_are_still_refused(bundle: Bundle, originals: dict[str, Tensor]) -> None:
    sent = transmission(bundle, originals, (), 10.0)
    other = load_bundle("photo24")
    with pytest.raises(ModelError, match="bundle 'photo24'"):
        decode_recording(record(sent, "csnr_db=20"), LAYOUT, other, ["avif-ldpc"])


def test_pilots_are_needed(bundle: Bundle, originals: dict[str, Tensor]) -> None:
    method = SEPARATION_METHODS["jpeg-ldpc"]
    with pytest.raises(ConfigError, match="has no pilots"):
        encode_separately(["a"], [originals["astro"]], method, bundle.codec, load_layout("photo-blind"), 10.0)


def test_every_chain_has_a_digest_of_its_own() -> None:
    chains = [Chain(m.source, scheme, m.choice) for m in SEPARATION_METHODS.values() for scheme in SCHEMES]
    assert all(chain_of(chain.digest) == chain for chain in chains)
    assert len({chain.digest for chain in chains}) == len(set(chains))
    assert chain_of("00000000") is None


def test_the_best_scheme_that_arrives_is_chosen() -> None:
    table = SchemeTable((TableRow("qpsk-449", 1.0, 9.0), TableRow("16qam-490", 6.5, 15.0), TableRow("qpsk-308", -1, 6)))
    chosen = [table.choose(csnr_db, False).name for csnr_db in (-9, -1, 0.9, 1.0, 6.4, 30)]
    assert chosen == ["qpsk-308", "qpsk-308", "qpsk-308", "qpsk-449", "qpsk-449", "16qam-490"]
    assert table.choose(10, True).name == "qpsk-449"
    assert table.choose(6.6, False, 8192).name == "16qam-490" and table.choose(6.6, False, 256).name == "qpsk-449"
    assert choose_chain(SEPARATION_METHODS["vvc-ldpc-fixed"], -20, True).scheme == FIXED_SCHEME
    rows = load_table().rows
    assert {row.scheme for row in rows} <= {scheme.name for scheme in SCHEMES}
    assert all(row.white_noise_db < row.fading_db for row in rows)
    with pytest.raises(ConfigError):
        TableRow("qpsk-1", 0.0, 0.0)
