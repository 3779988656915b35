"""Define what the live engine is asked to do, and what each of its processes is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.live.controls import Control, controls
from lab.live.video import check_video, picture_shape
from receiver.bundles.bundle import Bundle, load_bundle
from receiver.decode import DecodeSettings
from receiver.fitting import antennas_refused, check_models, check_pilots
from receiver.samplers import METHODS
from receiver.samplers.methods import BEST_OF_ANY_SIZE, BEST_OF_ONE_SIZE
from receiver.samplers.variants import method_variant
from sdr.air.chain import parse_impairments
from sdr.errors import ConfigError
from sdr.framing import images_per_frame
from sdr.layout import FrameLayout, load_layout
from sdr.radios.address import device_of
from sdr.radios.base import DEFAULT_CENTER_HZ
from sdr.radios.open import check_uri
from sdr.radios.simulated import SimulatedAir
from sdr.recordings.dataset import is_dataset, layout_of, read_index

RECORD_LIMIT_S = 20.0
"""Longest recording that a page can start: it is held in memory until it is written."""

RECORDED = ("recording-*", "snapshot-*")
"""Names of what a page may have written into the output folder."""

LAST_S = 5.0
"""Length of what is kept of the past, to be written when a page asks for it."""

SNAPSHOT_S = 1.0
"""Length of the past that a snapshot decodes."""

TRANSMITTING_SCHEMES = ("pluto", "uhd")
"""Radios that GNU Radio can transmit with."""

MOST_OF_THE_AIR = 0.9
"""Largest share of the time that frames may take."""


@dataclass(frozen=True)
class LiveChannel:
    """A simulated air.

    Attributes:
        csnr_db: cell power over noise power.
        taps: of the multipath channel.
        decay: of its exponential power delay profile, samples.
        cfo_hz: carrier frequency offset.
        redraw_s: the taps are drawn anew this often.
        impairments: what else goes wrong, as in `sdr.air.chain.parse_impairments`; it overrules the rest.
    """

    csnr_db: float = 10.0
    taps: int = 8
    decay: float = 4.0
    cfo_hz: float = 300.0
    redraw_s: float = 2.0
    impairments: str = ""

    def options(self, layout: FrameLayout, changed: Mapping[str, Any]) -> str:
        """Return the air as options of an impairment chain, with what a page changed.

        Raises:
            InputError: a value is out of range.
        """
        numbers: dict[str, Any] = {
            "taps": self.taps,
            "decay": self.decay,
            "cfo_hz": self.cfo_hz,
            "csnr_db": self.csnr_db,
            "block_samples": round(self.redraw_s * layout.rate_sps),
        }
        numbers |= {name: changed[name] for name in numbers if name in changed}
        chain, seed = parse_impairments(self.impairments, layout, **numbers)
        return ",".join([*(f"{key}={value}" for key, value in chain.options().items()), f"seed={seed}"])


@dataclass(frozen=True)
class LiveSettings:
    """What the engine is asked to do.

    Attributes:
        images: folder to send; None: the bundle's held-out samples.
        video: video file or camera to send instead; None: images.
        bundle: models, a name or a folder.
        layout: frame layout, a name or a file; None: "paper", for photographs "photo".
        radio: URI of a radio; "sim:" for an air in NumPy, "sim:rx=2" for one that two antennas receive; None: GNU Radio
            processes joined by ZMQ.
        rx_radio: URI of the radio that receives; None: the one that transmits.
        listen: transmit nothing.
        play: recording or dataset to play instead; None: none.
        fps: images sent in a second.
        told_csnr_db: CSNR that the encoder is told.
        channel: of a simulated air.
        method: that the sampler begins with; empty: the first that the models allow.
        decoding: seed, device, draws, and the batch size of a recording that is played.
        out: folder for recordings and snapshots.

    Raises:
        ConfigError: options that exclude each other, or are out of range.
        RadioError: an address can't be used.
    """

    images: Path | None = None
    video: Path | None = None
    bundle: str = "fashion"
    layout: str | None = None
    radio: str | None = None
    rx_radio: str | None = None
    listen: bool = False
    play: Path | None = None
    fps: float = 32.0
    told_csnr_db: float = 10.0
    channel: LiveChannel = LiveChannel()  # frozen
    method: str = ""
    decoding: DecodeSettings = DecodeSettings(draws=2)  # noqa: RUF009  # frozen
    out: Path = Path("runs/live")

    def __post_init__(self) -> None:
        if self.play is not None and (self.radio or self.rx_radio or self.listen):
            raise ConfigError("--play plays a recording: leave out --radio, --rx-radio and --listen.")
        if self.radio is None and (self.rx_radio is not None or self.listen):
            raise ConfigError("--rx-radio and --listen belong to a radio. Give --radio as well.")
        if self.video is not None and (self.images or self.play or self.listen):
            raise ConfigError("--video sends a video: leave out --images, --play and --listen.")
        if not 0 < self.fps <= 1000:
            raise ConfigError(f"--fps {self.fps:g} is outside 0..1000 images a second.")
        if not -20 <= self.told_csnr_db <= 60:
            raise ConfigError(f"--csnr-db {self.told_csnr_db:g} is outside -20..60 dB.")
        if self.channel.redraw_s < 0.01:
            raise ConfigError(f"--redraw-s {self.channel.redraw_s:g} must be at least 0.01 s.")
        for uri in filter(None, (self.radio, self.rx_radio)):
            scheme = check_uri(uri).scheme
            if scheme == "file":
                raise ConfigError("A recording is played with --play, not with --radio file:.")
            if scheme == "sim" and set(check_uri(uri).options) - {"rx"}:
                raise ConfigError(
                    "The air of sim: is set by --csnr-db, --taps, --cfo-hz and --impairments; leave all but rx= out."
                )
        if self.radio is not None and not self.listen and not self.simulated:
            self._check_transmitter(check_uri(self.radio).scheme)

    def _check_transmitter(self, scheme: str) -> None:
        if scheme not in TRANSMITTING_SCHEMES:
            raise ConfigError(f"ota live can't transmit over {scheme}:. Add --listen, or use pluto:, uhd: or sim:.")
        if self.rx_radio is not None and device_of(self.rx_radio) == device_of(self.radio or ""):
            raise ConfigError("--rx-radio is the radio that transmits; leave it out, it receives as well.")

    @property
    def duplex(self) -> bool:
        """Whether one process transmits and receives with a radio: a USRP belongs to one."""
        return (self.radio or "").startswith("uhd:") and self.rx_radio is None and not self.listen

    @property
    def antennas(self) -> int:
        """Antennas of the radio that receives."""
        uri = self.rx_radio or self.radio
        options = {} if uri is None else check_uri(uri).options
        return int(options.get("rx", options.get("antennas", 1)))

    @property
    def simulated(self) -> bool:
        """Whether the air is simulated."""
        return self.play is None and (self.radio is None or self.radio.startswith("sim:"))


@dataclass(frozen=True, eq=False)
class Plan:
    """What follows from the settings, once models and layout are at hand.

    Attributes:
        settings: what was asked for.
        layout: of the frames.
        image_folder: of the images that are sent.
        plain: the method that keeps up with the air.
        methods: that the sampler may run.
        values: of the controls, at the beginning.
    """

    settings: LiveSettings
    layout: FrameLayout
    image_folder: Path
    plain: str
    methods: tuple[str, ...]
    values: Mapping[str, Any]

    @property
    def controls(self) -> dict[str, Control]:
        """The controls of a page, by name."""
        played = self.settings.play is not None
        return controls(self.methods, simulated=self.settings.simulated, played=played)


def make_plan(settings: LiveSettings) -> Plan:
    """Find out what is wrong before any process starts.

    Raises:
        OtaError: models or layout can't be used, or the images don't fit into the time.
    """
    models = load_bundle(settings.bundle)
    layout = _find_layout(settings, models)
    plain = "jscc" if layout.pilot_symbols else "blind-jscc"
    methods = tuple(name for name in METHODS if name != plain and _can_run(name, models, settings, layout))
    best = BEST_OF_ANY_SIZE if models.any_size else BEST_OF_ONE_SIZE
    method = settings.method or next((name for name in (*best, *methods) if name in methods), "")
    if method and method.partition(":")[0] not in methods:
        raise ConfigError(f"The sampler can't run {method!r} here; use one of {', '.join(methods)}.")
    values: dict[str, Any] = {"record": False}
    if method:
        variant = method_variant(method, settings.decoding.steps)
        values |= {"method": variant.method, "steps": variant.settings.steps, "draws": settings.decoding.draws}
    if settings.simulated:
        channel = settings.channel
        values |= {"csnr_db": channel.csnr_db, "taps": channel.taps, "cfo_hz": channel.cfo_hz}
        chain, _ = parse_impairments(channel.options(layout, values), layout)
        SimulatedAir(chain, rx=settings.antennas)  # says what it does not simulate
    if settings.play is None:
        values |= {"mute": settings.listen, **_radio_values(settings)}
        shape = picture_shape(models.accepted_shape)
        _check_rate(settings, models.for_shape(shape).codec.num_symbols, layout)
        if settings.video is not None:
            check_video(settings.video, shape)
    else:
        values |= {"pause": False, "loop": True, "seek": 0.0}
    return Plan(settings, layout, settings.images or models.samples, plain, methods, values)


def _find_layout(settings: LiveSettings, models: Bundle) -> FrameLayout:
    """Return the layout that was named, or that of a dataset's first capture, or the models' usual one."""
    if settings.layout is not None:
        return load_layout(settings.layout)
    if settings.play is not None and is_dataset(settings.play):
        for row in read_index(settings.play)[:1]:
            if row.layout_digest:
                return layout_of(settings.play, row)
    return load_layout("photo" if models.any_size else "paper")


def _radio_values(settings: LiveSettings) -> dict[str, float]:
    """Return gains and carrier that the radios' URIs ask for, as the drivers begin without them."""
    if settings.radio is None or settings.simulated:
        return {}
    sent = check_uri(settings.radio).options
    heard = check_uri(settings.rx_radio or settings.radio).options
    begin = {"center_hz": DEFAULT_CENTER_HZ, "tx_gain_db": 0.0, "rx_gain_db": 0.0}
    options = {**heard, "center_hz": sent.get("center_hz", heard.get("center_hz", DEFAULT_CENTER_HZ))}
    options["tx_gain_db"] = sent.get("tx_gain_db", 0.0)
    return {name: float(options.get(name, value)) for name, value in begin.items()}


def _can_run(method: str, models: Bundle, settings: LiveSettings, layout: FrameLayout) -> bool:
    variants = [method_variant(method)]
    if antennas_refused(variants[0], settings.antennas):
        return False
    try:
        check_pilots(variants, layout)
        check_models(variants, models)
    except ConfigError:
        return False
    return True


def _check_rate(settings: LiveSettings, symbols: int, layout: FrameLayout) -> None:
    """Refuse more images a second than the air carries, of so many symbols each."""
    frames = 1 / images_per_frame(symbols, layout) if symbols <= layout.capacity else -(-symbols // layout.capacity)
    most = MOST_OF_THE_AIR * layout.rate_sps / (frames * layout.frame_samples)
    if settings.fps > most:
        raise ConfigError(
            f"--fps {settings.fps:g} is more than layout '{layout.name}' carries: at most {most:.0f} images a second."
        )


@dataclass(frozen=True, eq=False)
class Job:
    """What a process of the engine is told.

    Attributes:
        name: of the process.
        folder: of the sockets.
        plan: what is to be done.
        values: of the controls, when the process starts.
    """

    name: str
    folder: Path
    plan: Plan
    values: Mapping[str, Any]
