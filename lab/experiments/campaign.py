"""Record campaigns: a TOML plan of captures, carried out unattended, resumable at any point."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from receiver.separation.methods import SEPARATION_METHODS
from sdr.calibration_profile import CalibrationProfile, load_profile
from sdr.documents import checked_value, from_table, read_document
from sdr.errors import ConfigError, RadioError, did_you_mean
from sdr.files import write_json
from sdr.layout import FrameLayout, load_layout
from sdr.progress import Progress
from sdr.recordings.dataset import IndexRow
from sdr.recordings.recording import MAX_ANTENNAS, Recording
from sdr.recordings.writer import CaptureNotes, DatasetWriter
from sdr.settings import RadioSettings

if TYPE_CHECKING:
    from receiver.codecs.codec import Codec
    from sdr.radios.base import Radio
    from transmitter.encode import Transmission


PLAN_NAME = "campaign.json"
#: The way to send that is the bundle's codec.
JSCC = "jscc"
#: A pipe that still gives samples after so many captures is a stream without end, and needs no draining.
_DRAINED_CAPTURES = 8


@dataclass(frozen=True)
class Campaign:
    """A plan: every combination of the lists, `repetitions` times.

    Args:
        name: of the dataset's collection; letters, digits and . _ -.
        radio: URI, which also says how many antennas receive. A simulated radio gets csnr_db and a seed of each
            capture's own unless the URI has them.
        images: folder of images; captures take them in turn.
        csnr_db: channel SNRs that the encoder is given, dB.
        layouts: frame layouts, names or files.
        methods: ways to send the images, each in captures of its own: "jscc", or methods such as "avif-ldpc".
        center_hz: carrier frequencies of the radio.
        tx_gain_db: transmit gains of the radio.
        rx_gain_db: receive gains of the radio.
        images_per_capture: different images in one capture.
        repetitions: captures of each combination.
        seconds: length of a capture; 0: all that was sent, twice over where the radio repeats it.
        max_attempts: a capture that the health gate refuses is repeated up to this often; the last one is kept, marked.
        require_frames: the gate also refuses a capture in which no frame is found; off where lost frames count.
        bundle: model bundle that encodes.
        seed: of simulated channels and noise.
        calibration: profile of the radios; captures bear its digest, and a radio that it does not belong to is refused.
        description: for the metadata, as are the rest.
        author: who records.
        license: of the captures.
        antenna: of the radios.
        antennas: that the radio must receive with; 0: as many as it has.

    Raises:
        ConfigError: a value out of range.
        RadioError: a setting of the radio out of range.
    """

    name: str
    radio: str
    images: str
    csnr_db: tuple[float, ...]
    layouts: tuple[str, ...] = ("paper",)
    methods: tuple[str, ...] = (JSCC,)
    center_hz: tuple[float, ...] = (0.0,)
    tx_gain_db: tuple[float, ...] = (0.0,)
    rx_gain_db: tuple[float, ...] = (0.0,)
    images_per_capture: int = 4
    repetitions: int = 1
    seconds: float = 0.0
    max_attempts: int = 3
    require_frames: bool = False
    bundle: str = "fashion"
    seed: int = 0
    calibration: str = ""
    description: str = ""
    author: str = ""
    license: str = ""
    antenna: str = ""
    antennas: int = 0

    def __post_init__(self) -> None:
        for key in ("csnr_db", "layouts", "methods", "center_hz", "tx_gain_db", "rx_gain_db"):
            values = getattr(self, key)
            if not values or len(set(values)) != len(values):
                raise ConfigError(f"{key} = {list(values)} must be a list of different values, at least one.")
        if not all(-20 <= value <= 60 for value in self.csnr_db):
            raise ConfigError(f"csnr_db = {list(self.csnr_db)} must lie in -20..60 dB.")
        for key in ("images_per_capture", "repetitions", "max_attempts"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key} = {getattr(self, key)} must be at least 1.")
        for key in ("center_hz", "tx_gain_db", "rx_gain_db"):
            for value in getattr(self, key):
                RadioSettings(**{key: value})  # its ranges
        for method in self.methods:
            if method != JSCC and (method not in SEPARATION_METHODS or SEPARATION_METHODS[method].refined):
                ways = [JSCC, *(name for name, known in SEPARATION_METHODS.items() if not known.refined)]
                raise ConfigError(f"methods: {method!r} is no way to send; {did_you_mean(method, ways)}")
        if not 0 <= self.antennas <= MAX_ANTENNAS:
            raise ConfigError(f"antennas = {self.antennas} must be in 0..{MAX_ANTENNAS}.")
        if self.seed < 0 or not 0 <= self.seconds <= 3600:
            raise ConfigError(f"seed = {self.seed} must be at least 0 and seconds = {self.seconds} in 0..3600.")

    def captures(self) -> Iterator[Capture]:
        """Yield all captures, numbered from 0.

        Repetitions are outermost, so that a campaign cut short has some of everything.
        """
        settings = itertools.product(
            self.layouts, self.center_hz, self.tx_gain_db, self.rx_gain_db, self.csnr_db, self.methods
        )
        plan = itertools.product(range(self.repetitions), list(settings))
        for number, (repetition, setting) in enumerate(plan):
            yield Capture(number, repetition, *setting)

    @property
    def num_captures(self) -> int:
        """Number of captures of the plan."""
        lists = (self.layouts, self.center_hz, self.tx_gain_db, self.rx_gain_db, self.csnr_db, self.methods)
        return self.repetitions * int(np.prod([len(values) for values in lists]))


@dataclass(frozen=True)
class Capture:
    """One capture of a plan.

    Attributes:
        number: in the plan, from 0.
        repetition: captures of the same settings before it.
        layout: frame layout, a name or a file.
        center_hz: carrier frequency.
        tx_gain_db: transmit gain.
        rx_gain_db: receive gain.
        csnr_db: channel SNR that the encoder is given, dB.
        method: way to send.
    """

    number: int
    repetition: int
    layout: str
    center_hz: float
    tx_gain_db: float
    rx_gain_db: float
    csnr_db: float
    method: str = JSCC


def load_campaign(path: Path, radio: str | None = None) -> Campaign:
    """Read a plan from a TOML file.

    Args:
        path: the file; its keys are the fields of `Campaign`, unknown ones are errors.
        radio: replaces the file's.

    Raises:
        ConfigError: the file is missing, is no TOML, or says something impossible.
    """
    content = read_document(path, what="plan")
    return from_table(Campaign, content if radio is None else {**content, "radio": radio}, str(path))


class _Sender:
    """Encodes what each capture sends."""

    def __init__(self, plan: Campaign) -> None:
        from receiver.bundles.bundle import load_codec
        from receiver.images.files import load_images, stack_images
        from sdr.header import image_id_from_stem

        self._plan = plan
        codec = load_codec(plan.bundle)
        stems, images = load_images(Path(plan.images), codec.accepted_shape)
        self._images = stack_images(stems, images)
        self.codec: Codec = codec.for_shape((images[0].shape[0], images[0].shape[1], images[0].shape[2]))
        self._ids = [image_id_from_stem(stem) for stem in stems]
        if len(set(self._ids)) != len(self._ids):
            raise ConfigError(f"Two images in {plan.images} would be sent under one id. Rename one of them.")
        if plan.images_per_capture > len(self._ids):
            raise ConfigError(
                f"images_per_capture = {plan.images_per_capture}, but {plan.images} has {len(self._ids)} images."
            )
        self._count = plan.images_per_capture
        pixels = (self._images * 255).round().byte().numpy()
        self._pixels = pixels
        self.hashes = [hashlib.sha256(image.tobytes()).hexdigest() for image in pixels]

    def transmission(self, capture: Capture, layout: FrameLayout) -> tuple[Transmission, dict[str, NDArray[Any]]]:
        """Return what a capture sends, in frames numbered as no other capture's are, and the ground truth."""
        from lab.experiments.link import fades
        from sdr.framing import num_frames
        from transmitter.encode import Transmission, encode_images
        from transmitter.separation import encode_separately

        # Every way to send has the same images.
        first = capture.number // len(self._plan.methods) * self._count
        picked = [(first + index) % len(self._ids) for index in range(self._count)]
        ids = [self._ids[index] for index in picked]
        each = num_frames(self._count, self.codec.num_symbols, layout)
        first_frame = capture.number * each % (1 << 32)
        images = self._images[picked]
        if capture.method == JSCC:
            sent = encode_images(ids, images, self.codec, layout, capture.csnr_db, first_frame=first_frame)
        else:
            sent = encode_separately(
                ids,
                images,
                SEPARATION_METHODS[capture.method],
                self.codec,
                layout,
                capture.csnr_db,
                fading=fades(self._plan.radio.removeprefix("sim:")),
            )
            sent = Transmission.of(sent.symbols, layout, first_frame)
        truth = {
            "image_ids": np.array(ids),
            "image_sha256": np.array([self.hashes[index] for index in picked]),
            "images": self._pixels[picked],
            "z": sent.symbols[0].z,
            "csnr_db": np.array(capture.csnr_db),
        }
        return sent, truth


@dataclass(frozen=True)
class CampaignCounts:
    """What carrying out a campaign came to.

    Attributes:
        captures: in the dataset.
        recorded: now.
        repeated: attempts that the health gate threw away.
        unhealthy: captures that were kept although the gate refused them.
        removed: files of captures that an earlier run had left unfinished.
    """

    captures: int
    recorded: int
    repeated: int
    unhealthy: int
    removed: tuple[str, ...]


def run_campaign(plan: Campaign, out: Path, progress: Progress, note: Callable[[str], None]) -> CampaignCounts:
    """Make the captures of a plan that `out` lacks.

    Args:
        plan: the campaign.
        out: folder of the dataset.
        progress: called with the captures that are done.
        note: called with a line for each capture that was repeated, kept although unhealthy, or not complete.

    Raises:
        ConfigError: `out` holds another plan's dataset, or the plan can't be carried out.
        RadioError: the radio fails; what was recorded stays.
        RecordingError: another writer is at work, or nothing can be written.
    """
    from sdr.radios.open import check_uri

    layouts = {name: load_layout(name) for name in plan.layouts}
    check_uri(plan.radio)
    sender = _Sender(plan)
    profile = load_profile(plan.calibration) if plan.calibration else None
    written = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(plan).items()}
    if plan.methods == (JSCC,):
        del written["methods"]  # which older datasets don't have, nor what follows
    if not plan.antennas:
        del written["antennas"]
    fingerprint = {
        "plan": written,
        "layouts": {name: layout.digest for name, layout in layouts.items()},
        "codec_digest": sender.codec.digest,
        **({} if profile is None else {"calibration_digest": profile.digest}),
        "images_sha256": hashlib.sha256("".join(sender.hashes).encode()).hexdigest(),
    }
    recorded = repeated = unhealthy = 0
    with DatasetWriter(out, plan.name, plan.description, plan.author, plan.license) as dataset:
        _check_plan(out / PLAN_NAME, fingerprint, bool(dataset.rows))
        for name in dataset.removed:
            note(f"not complete, recorded again: {name}")
        done = len(dataset.rows)
        progress("record", done, plan.num_captures)
        with _Radios(plan) as radios:
            for capture in plan.captures():
                if capture.number in dataset:
                    continue
                row, attempts = _capture(plan, capture, layouts[capture.layout], sender, radios, dataset, profile, note)
                done += 1
                recorded += 1
                repeated += attempts
                if not row.healthy:
                    unhealthy += 1
                    note(f"kept although unhealthy: {row.recording}: {row.warnings}")
                progress("record", done, plan.num_captures)
        return CampaignCounts(len(dataset.rows), recorded, repeated, unhealthy, tuple(dataset.removed))


def _check_plan(path: Path, fingerprint: dict[str, Any], begun: bool) -> None:
    """Write what a campaign depends on, or refuse another one's dataset, of which a capture was recorded."""
    if not (begun and path.is_file()):
        write_json(path, fingerprint)
        return
    found = read_document(path)
    if found != fingerprint:
        before = checked_value(Mapping[str, object], found.get("plan"), f"{path}: plan", ConfigError)
        now = fingerprint["plan"]
        changed = [key for key in now if now[key] != before.get(key)] or ["layout files, codec or images"]
        raise ConfigError(
            f"{path.parent} was begun with another plan ({', '.join(changed)} changed). Name another --out."
        )


class _Radios:
    """Opens a radio for each capture; one that is not simulated stays open while its settings stay the same."""

    def __init__(self, plan: Campaign) -> None:
        self._plan, self._stack, self._open = plan, ExitStack(), None

    def __enter__(self) -> _Radios:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def get(self, capture: Capture, layout: FrameLayout, attempt: int) -> Radio:
        from sdr.radios.address import parse_uri
        from sdr.radios.open import open_radio

        uri = self._plan.radio
        address = parse_uri(uri)
        if address.scheme == "sim":
            own = {
                "csnr_db": f"{capture.csnr_db:g}",
                # Repeating a capture must not repeat its noise.
                "seed": str((self._plan.seed * 1_000_003 + capture.number) * 16 + attempt),
            }
            added = [f"{key}={value}" for key, value in own.items() if key not in address.options]
            uri = "sim:" + ",".join([*filter(None, [address.rest]), *added])
        settings = RadioSettings(uri, capture.center_hz, layout.rate_sps, None, capture.tx_gain_db, capture.rx_gain_db)
        key = (settings, layout.digest)
        if self._open is None or self._open[0] != key:
            self._stack.close()
            self._open = (key, self._stack.enter_context(open_radio(uri, settings, layout)))
        return self._open[1]

    def drain(self, num_samples: int) -> None:
        """Discard what an earlier capture left in the pipe, and close the radio, before a capture is repeated."""
        if self._open is None:
            return
        radio = self._open[1]
        if not (radio.capabilities.finite or radio.capabilities.cyclic):
            with suppress(RadioError):  # a pipe that has run dry says so after its timeout
                for _ in range(_DRAINED_CAPTURES):
                    radio.receive(num_samples)
        self._stack.close()
        self._open = None


def _capture(
    plan: Campaign,
    capture: Capture,
    layout: FrameLayout,
    sender: _Sender,
    radios: _Radios,
    dataset: DatasetWriter,
    profile: CalibrationProfile | None,
    note: Callable[[str], None],
) -> tuple[IndexRow, int]:
    """Record one capture through the health gate; return its row and how many attempts were thrown away."""

    sent, truth = sender.transmission(capture, layout)
    numbers = tuple(frame.header.frame_number for frame in sent.frames)
    attempt = 0
    while True:
        radio = radios.get(capture, layout, attempt)
        if profile is not None:
            profile.check(radio.settings)
        recording = _exchange(plan, radio, sent, layout)
        if plan.antennas not in (0, len(recording.antennas)):
            raise ConfigError(
                f"The plan has antennas = {plan.antennas}, and radio '{plan.radio}' received with "
                f"{len(recording.antennas)}. Say in its URI with how many (rx=2; zmq: antennas=2), or mend the plan."
            )
        found = _check_frames(recording, layout, numbers, plan.require_frames)
        problems = (*recording.health.warnings, *found)
        if not problems or attempt + 1 >= plan.max_attempts:
            break
        attempt += 1
        note(f"capture {capture.number} repeated: {'; '.join(problems)}")
        radios.drain(sent.samples().size)
    starts = layout.gap_samples + np.arange(len(sent.frames)) * layout.frame_samples
    channel = getattr(radio, "channel_truth", lambda starts: None)(starts)
    notes = CaptureNotes(
        csnr_db=capture.csnr_db,
        images=plan.images_per_capture,
        repetition=capture.repetition,
        attempt=attempt,
        codec_digest=sent.symbols[0].codec_digest,
        calibration_digest="" if profile is None else profile.digest,
        frame_ids=numbers,
        antenna=plan.antenna,
        problems=found,
    )
    known = {} if channel is None else {f"channel_{key}": np.asarray(value) for key, value in channel.items()}
    return dataset.add(capture.number, recording, layout, notes, {**truth, **known}), attempt


def _exchange(plan: Campaign, radio: Radio, sent: Transmission, layout: FrameLayout) -> Recording:
    """Send what one capture is of and receive it."""
    length = round(plan.seconds * layout.rate_sps) or None
    if radio.capabilities.finite:
        radio.transmit(sent.samples())
        return radio.receive(length)
    # What repeats is whole frames, each of which ends with a gap.
    samples = sent.samples(0 if radio.capabilities.cyclic else None)
    if radio.capabilities.cyclic:
        radio.transmit(samples, cyclic=True)
        # Twice the period holds one whole transmission, wherever the capture begins.
        return radio.receive(length or 2 * samples.size)
    if radio.capabilities.transmit:
        radio.transmit(samples)
    return radio.receive(length or samples.size)


def _check_frames(recording: Recording, layout: FrameLayout, numbers: Sequence[int], required: bool) -> tuple[str, ...]:
    """Return what is wrong with the frames of a capture.

    There is none although one is `required`, or some are of another capture, which old buffers held.
    """
    from receiver.sync.preamble import find_frames

    found = find_frames(recording, layout)
    if not found and required:
        return ("no frame was found; raise a gain",)
    foreign = [f.header.frame_number for f in found if f.header and f.header.frame_number not in numbers]
    return (f"frames {foreign} belong to another capture; the samples are stale",) if foreign else ()
