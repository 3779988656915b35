"""Send a folder of images through GNU Radio or a radio, decode them by several methods, and score what arrives.

    images -> encode -> frames -> transmit_and_receive -> recording -> decode -> images -> score

The receiver gets the recording and the frame layout, nothing else; the originals and the true channel are used for
scoring only.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flowgraphs.link import LinkRun, LoopbackSettings, run_loopback
from flowgraphs.radio_link import run_radio_link
from flowgraphs.supervisor import find_gnuradio_python
from lab.evaluation.channel_truth import ChannelTruth
from lab.evaluation.outcomes import image_outcomes, load_originals
from lab.evaluation.realism import RealismScore, load_realism
from lab.evaluation.summary import Summary, score
from lab.experiments.asking import (
    SEEDS_APART,
    AskedLink,
    Retransmission,
    another_draw,
    radio_of_round,
    send_and_ask,
)
from lab.experiments.decode_file import DecodedRecording, check_result, fitting_profile
from lab.experiments.link import fades
from lab.experiments.stages import HERE, Stage
from receiver.again import AskingReceiver, check_combining
from receiver.bundles.bundle import Bundle, load_bundle, parts_of
from receiver.decode import DecodeSettings, decode_recording
from receiver.fitting import check_models
from receiver.samplers.variants import method_variant, sending_methods
from sdr.calibration_profile import load_profile
from sdr.errors import ConfigError
from sdr.framing import FrameContent
from sdr.layout import FrameLayout, load_layout
from sdr.progress import Progress
from sdr.radios.address import parse_uri
from transmitter.encode import Transmission, Ways, encode_folder

#: Methods of the demonstration, in the order of its table.
DEMO_METHODS = ("jscc", "diffcom", "hifi", "guided", "blind", "blind-guided")
#: Methods for photographs: the best sampler beside the plain decoder, with pilots and without.
PHOTO_METHODS = ("jscc", "bp", "blind-jscc", "blind-bp")
#: Methods for photographs of one size, that of a published prior.
PUBLISHED_METHODS = ("jscc", "hifi")
#: Images of at most so many pixels share frames of a few symbols; larger ones take frames of 4096.
SMALL_PIXELS = 64 * 64


@dataclass(frozen=True)
class LoopbackChannel:
    """The channel between the GNU Radio processes.

    Attributes:
        taps: of the multipath channel.
        decay: of its exponential power delay profile, samples.
        redraw_frames: the taps are drawn anew every so many frames.
        cfo_hz: carrier frequency offset.
        impairments: what else goes wrong, see `sdr.air.chain.parse_impairments`; it overrules the rest.
    """

    taps: int = 8
    decay: float = 4.0
    redraw_frames: int = 1
    cfo_hz: float = 300.0
    impairments: str = ""

    @property
    def fades(self) -> bool:
        """Whether its gain is drawn."""
        return fades(f"taps={self.taps},{self.impairments}")


@dataclass(frozen=True)
class DemoSettings:
    """What a demonstration sends, over what, and how it decodes.

    Attributes:
        images: folder to send; None: the bundle's held-out samples.
        bundle: models, a name or a folder.
        prior: bundle whose prior is taken; None: that of `bundle`.
        layout: frame layout, a name or a file; None: "paper", for images of more than `SMALL_PIXELS` "photo".
        methods: to decode by; none: `DEMO_METHODS`, for photographs `PHOTO_METHODS` or `PUBLISHED_METHODS`.
        csnr_db: channel SNR of the simulated channel; the encoder is given it, too.
        refine_steps: in which the transmitter refines the symbols of each image.
        channel: between the GNU Radio processes.
        radio: URI of a radio to send through instead; None: GNU Radio processes joined by ZMQ.
        rx_radio: URI of the radio that receives; None: the one that transmits.
        tx_path: who drives the radio that transmits, "gnuradio" or "python"; None: GNU Radio where it can.
        calibration: profile of the radios, instead of that in `decoding`; None: none.
        retransmission: what the receiver asks for again.
        decoding: seed (also of the simulated channel), device and the like.

    Raises:
        ConfigError: a radio that receives, without one that transmits.
    """

    images: Path | None = None
    bundle: str = "fashion"
    prior: str | None = None
    layout: str | None = None
    methods: tuple[str, ...] = ()
    csnr_db: float = 10.0
    refine_steps: int = 0
    channel: LoopbackChannel = LoopbackChannel()  # frozen
    radio: str | None = None
    rx_radio: str | None = None
    tx_path: str | None = None
    calibration: Path | None = None
    retransmission: Retransmission = Retransmission()  # noqa: RUF009  # frozen
    decoding: DecodeSettings = DecodeSettings(seed=2)  # noqa: RUF009  # frozen

    def __post_init__(self) -> None:
        if self.radio is None and (self.rx_radio is not None or self.tx_path is not None):
            raise ConfigError("--rx-radio and --tx-path belong to a radio that transmits. Give --radio as well.")


@dataclass(frozen=True, eq=False)
class Sent:
    """What is sent.

    Attributes:
        folder: of the images.
        models: that encode and decode.
        transmission: the images as symbols and frames.
        methods: to decode by.
    """

    folder: Path
    models: Bundle
    transmission: Transmission
    methods: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Demonstration:
    """A demonstration from end to end.

    Attributes:
        settings: of the demonstration, the radios' addresses corrected by the calibration.
        sent: what was sent.
        received: what was received.
        decoded: what was decoded.
        summaries: one a method, over the images that every method decoded; none for a single image.
        floor: realism of the originals; None for a single image, or where the bundle has no measure of it.
        stages: up to the decoding.
        scoring_s: time that scoring took.
        asked: what was sent again; None where nothing was to be asked for.
    """

    settings: DemoSettings
    sent: Sent
    received: LinkRun
    decoded: DecodedRecording
    summaries: tuple[Summary, ...]
    floor: RealismScore | None
    stages: tuple[Stage, ...]
    scoring_s: float
    asked: AskedLink | None = None

    @property
    def num_frames(self) -> int:
        """Frames sent in all."""
        rounds = () if self.asked is None else self.asked.rounds
        return sum(each.frames for each in rounds) or len(self.sent.transmission.frames)

    @property
    def partial(self) -> bool:
        """Whether frames, headers or images are missing; frames count where they were not made up for."""
        result = self.decoded.result
        images = {outcome.id for outcome in self.decoded.outcomes}
        if self.asked is not None:
            return any(image.lost for image in result.images) or not images.issuperset(self.sent.transmission.ids)
        return (
            bool(result.incomplete)
            or not all(frame.header_ok for frame in result.frames)
            or len(result.frames) < len(self.sent.transmission.frames)
            or not images.issuperset(self.sent.transmission.ids)
        )


def demonstrate(settings: DemoSettings, progress: Progress, note: Callable[[str], None]) -> Demonstration:
    """Send, receive, decode and score.

    Args:
        settings: of the demonstration.
        progress: called as it goes on.
        note: called with doubts whether the calibration fits.

    Raises:
        OtaError: something does not fit or is missing, or nothing could be decoded; the message says what to do.
    """
    settings = prepared(settings)
    began = time.perf_counter()
    sent = encode(settings, progress)
    encoded = time.perf_counter()
    asked = None
    if settings.retransmission.rounds:
        asked = transmit_and_ask(settings, sent, progress)
        received, arrived = asked.link, encoded + asked.link.seconds
        profile = fitting_profile(settings.calibration, received.recording, note)
        decoded = DecodedRecording(
            received.recording,
            sent.transmission.layout,
            asked.result,
            (),
            time.perf_counter() - arrived,
            profile=profile,
        )
        check_result(asked.result)
    else:
        received = transmit_and_receive(settings, sent.transmission.layout, sent.transmission.frames, progress)
        arrived = time.perf_counter()
        decoded = decode(settings, sent, received, progress, note)
    finished = time.perf_counter()
    decoded, summaries, floor = score_images(settings, sent, received, decoded)
    link = f"{len(received.processes)} processes, GNU Radio {received.gnuradio}" if received.gnuradio else HERE
    methods = {
        method: sum(image.seconds for image in decoded.result.images if image.method == method)
        for method in sent.methods
    }
    asking = ", decode what was asked for again" if asked else ""
    stages = (
        Stage("load the models, encode the images", HERE, encoded - began),
        Stage(f"transmit and receive over {settings.radio or 'ZMQ'}", link, arrived - encoded),
        Stage(f"find frames, estimate channels{asking}", HERE, decoded.seconds - sum(methods.values())),
        *(
            Stage(f"decode ({method})", f"{HERE}, {settings.decoding.device}", seconds)
            for method, seconds in methods.items()
        ),
    )
    scoring_s = time.perf_counter() - finished
    return Demonstration(settings, sent, received, decoded, summaries, floor, stages, scoring_s, asked)


def prepared(settings: DemoSettings) -> DemoSettings:
    """Find out what is wrong before any work, and correct the radios' addresses by the calibration.

    Raises:
        OtaError: an unknown layout, a bad address or profile, a file that would be asked again, or no GNU Radio.
    """
    if settings.layout is not None:
        load_layout(settings.layout)
    if settings.calibration is not None:
        # Only what belongs to these radios is used here; the profile is checked against what was received.
        profile = load_profile(settings.calibration)
        radio, rx_radio = (None if uri is None else profile.trimmed(uri) for uri in (settings.radio, settings.rx_radio))
        settings = replace(settings, radio=radio, rx_radio=rx_radio)
    if settings.radio is None:
        find_gnuradio_python()
    elif parse_uri(settings.radio).scheme == "file" and settings.retransmission.rounds:
        raise ConfigError(
            f"--retransmit: {settings.radio} is recorded once and can't be asked again. Name a radio, or sim:."
        )
    return settings


def encode(settings: DemoSettings, progress: Progress) -> Sent:
    """Load the models and encode the images into frames.

    Raises:
        OtaError: the models are damaged, a method needs what they lack, or an image can't be sent.
    """
    models = load_bundle(settings.bundle, prior=settings.prior)
    layout = load_layout(settings.layout or ("paper" if are_small(models) else "photo"))
    methods = settings.methods or default_methods(models)
    variants = [method_variant(method) for method in methods]
    if settings.retransmission.rounds:
        variants = [variant for variant in variants if settings.methods or not variant.blind]
        methods = tuple(variant.label for variant in variants)
        check_combining(variants, models, layout)
    check_models(variants, models)
    folder = settings.images or models.samples
    if settings.images is None and not folder.is_dir():
        raise ConfigError(f"Bundle '{models.name}' has no samples to send. Give a folder of images with --images.")
    transmission = encode_folder(
        folder,
        models.codec,
        layout,
        settings.csnr_db,
        ways=Ways(sending_methods(variants), fading=settings.radio is None and settings.channel.fades),
        shape=models.accepted_shape,
        refine_steps=settings.refine_steps,
        progress=progress,
    )
    return Sent(folder, models, transmission, methods)


def are_small(models: Bundle) -> bool:
    """Return whether a bundle is for images of one size of at most `SMALL_PIXELS`."""
    _, height, width = models.accepted_shape
    return height is not None and width is not None and height * width <= SMALL_PIXELS


def default_methods(models: Bundle) -> tuple[str, ...]:
    """Return the methods that a bundle is shown by."""
    if are_small(models):
        return DEMO_METHODS
    if models.any_size or models.denoiser is None:
        return PHOTO_METHODS
    return PUBLISHED_METHODS


def transmit_and_receive(
    settings: DemoSettings, layout: FrameLayout, frames: Sequence[FrameContent], progress: Progress, number: int = 0
) -> LinkRun:
    """Send frames through GNU Radio processes or a radio, and record what arrives.

    Args:
        settings: of the link.
        layout: of the frames.
        frames: to send.
        progress: called as it goes on.
        number: of the round of asking; simulated channels draw anew in each.

    Raises:
        FlowgraphError: GNU Radio is missing, or a process of it failed.
        RadioError: a radio can't be used.
    """
    with tempfile.TemporaryDirectory(prefix="ota-link-") as workdir:
        if settings.radio is None:
            drawn = replace(settings.channel, impairments=another_draw(settings.channel.impairments, number))
            seed = settings.decoding.seed + SEEDS_APART * number
            channel = LoopbackSettings(settings.csnr_db, seed=seed, **vars(drawn))
            return run_loopback(frames, layout, channel, Path(workdir), progress)
        radio = radio_of_round(settings.radio, number)
        return run_radio_link(frames, layout, radio, Path(workdir), settings.rx_radio, settings.tx_path, progress)


def transmit_and_ask(settings: DemoSettings, sent: Sent, progress: Progress) -> AskedLink:
    """Send the frames, and again what the receiver asks for.

    Raises:
        OtaError: the link fails, or what is received can't be decoded.
    """
    layout, decoding = sent.transmission.layout, settings.decoding
    if settings.calibration is not None:
        decoding = replace(decoding, calibration=load_profile(settings.calibration))
    receiver = AskingReceiver(layout, sent.models, sent.methods, decoding)

    def send(frames: Sequence[FrameContent], number: int) -> LinkRun:
        return transmit_and_receive(settings, layout, frames, progress, number)

    return send_and_ask(sent.transmission, receiver, settings.retransmission, send, progress)


def decode(
    settings: DemoSettings, sent: Sent, received: LinkRun, progress: Progress, note: Callable[[str], None]
) -> DecodedRecording:
    """Decode what was received by every method; what was sent gives the models, the layout and the methods, no more.

    Raises:
        OtaError: the calibration does not fit, or nothing could be decoded.
    """
    began, layout = time.perf_counter(), sent.transmission.layout
    profile = fitting_profile(settings.calibration, received.recording, note)
    decoding = settings.decoding if profile is None else replace(settings.decoding, calibration=profile)
    result = decode_recording(received.recording, layout, sent.models, sent.methods, decoding, progress=progress)
    seconds = time.perf_counter() - began
    check_result(result)
    return DecodedRecording(received.recording, layout, result, (), seconds, profile=decoding.calibration)


def score_images(
    settings: DemoSettings, sent: Sent, received: LinkRun, decoded: DecodedRecording
) -> tuple[DecodedRecording, tuple[Summary, ...], RealismScore | None]:
    """Compare the decoded images with the originals, and their channels with the true one.

    Raises:
        RecordingError: no image was decoded by every method.
    """
    originals = load_originals(sent.folder, sent.models.accepted_shape)
    known = {} if received.truth is None else received.truth.arrays()
    truth = ChannelTruth.from_mapping(known) if "taps" in known else None
    outcomes = image_outcomes(decoded.result, originals, decoded.layout, truth)
    realism = load_realism(sent.models.path) if "realism" in parts_of(sent.models.path) else None
    summaries, floor = score(decoded.result.images, outcomes, originals, realism, settings.decoding.seed)
    return replace(decoded, outcomes=outcomes, originals=originals, truth=truth), tuple(summaries), floor
