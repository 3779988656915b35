"""Send images over a simulated channel and record what arrives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lab.evaluation.channel_truth import ChannelTruth
from lab.experiments.plan import Condition, Sweep
from receiver.codecs.codec import Codec
from receiver.separation.methods import SeparationMethod
from sdr.layout import FrameLayout
from sdr.radios.open import open_radio
from sdr.radios.simulated import SimulatedRadio
from sdr.recordings.recording import Recording
from sdr.symbols import Symbols
from transmitter.encode import Transmission, encode_images
from transmitter.separation import encode_separately


@dataclass(frozen=True)
class Reception:
    """What arrived over a simulated radio.

    Attributes:
        recording: of the receiver.
        sent_frames: how many frames were sent.
        truth: the simulated channel, for scoring only; None where it is not known.
    """

    recording: Recording
    sent_frames: int
    truth: ChannelTruth | None


def fades(channel: str) -> bool:
    """Return whether options of a simulated channel draw its gain, from frame to frame or carrier to carrier.

    >>> fades("taps=8,decay=4"), fades("taps=8,taps=0"), fades("cfo_hz=300")
    (True, False, False)
    """
    options = {key: value for key, _, value in (option.partition("=") for option in channel.split(","))}
    return "tdl" in options or options.get("taps", "0") != "0"


def send(
    sweep: Sweep,
    codec: Codec,
    layout: FrameLayout,
    ids: Sequence[str],
    images: Tensor,
    condition: Condition,
    *,
    z: Tensor | None = None,
    method: SeparationMethod | None = None,
) -> Reception:
    """Send images over the simulated radio under one condition.

    Args:
        sweep: the experiment, for seeds and how often taps are drawn.
        codec: that encodes, for images of this size.
        layout: of the frames.
        ids: n names.
        images: (n, C, H, W) in [0, 1].
        condition: channel and channel SNR.
        z: (n, K) symbols, where the images are encoded already.
        method: image codec and LDPC that send the images instead of the codec.
    """
    csnr_db = condition.csnr_db
    if method is not None:
        sent = encode_separately(ids, images, method, codec, layout, csnr_db, fading=fades(condition.channel))
    elif z is None:
        sent = encode_images(ids, images, codec, layout, csnr_db, refine_steps=sweep.refine_steps)
    else:
        sent = Transmission.of([Symbols(z.numpy(), codec.digest, tuple(ids), codec.image_shape, csnr_db)], layout)
    # Taps change in the gap before a frame: the stream begins with one gap, and every frame ends with one.
    drawn = "taps=" in condition.channel and "doppler_hz=" not in condition.channel
    fading = f"block_samples={sweep.redraw_frames * layout.frame_samples}" if drawn else ""
    # Each SNR has noise and channels of its own, or one unlucky draw would repeat along a whole curve; conditions of
    # one SNR share them, which makes their differences sharper.
    seed = sweep.seed * 1000 + round(csnr_db * 10) + 300
    options = [condition.channel, fading, f"csnr_db={csnr_db}", f"seed={seed}"]
    with open_radio("sim:" + ",".join(option for option in options if option), layout=layout) as radio:
        radio.transmit(sent.samples())
        recording = radio.receive()
        assert isinstance(radio, SimulatedRadio)
        starts = [layout.gap_samples + index * layout.frame_samples for index in range(len(sent.frames))]
        truth = radio.channel_truth(starts)
    return Reception(recording, len(sent.frames), None if truth is None else ChannelTruth.from_mapping(truth))
