"""Send images, and again whatever the receiver asks for, round by round.

    images -> frames -> link -> recording -> decode -> request -> frames -> link -> recording -> decode -> ...

From the transmitter to the receiver go recordings alone, and requests back, as JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from flowgraphs.link import LinkRun
from receiver.again import AskingReceiver
from receiver.results import DecodeResult
from sdr.errors import ConfigError
from sdr.framing import FrameContent
from sdr.progress import Progress
from sdr.radios.address import parse_uri
from sdr.repeat_request import RepeatRequest
from transmitter.again import Repeater
from transmitter.encode import Transmission

#: Most rounds of asking.
MAX_ROUNDS = 64
#: By what the seeds of two rounds differ.
SEEDS_APART = 1_000_000


@dataclass(frozen=True)
class Retransmission:
    """How often and how much a receiver asks for again.

    Attributes:
        rounds: of asking; 0: never.
        share: of all symbols of the images, that a round asks for; lost frames come first.

    Raises:
        ConfigError: a value out of range.
    """

    rounds: int = 0
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.rounds <= MAX_ROUNDS:
            raise ConfigError(f"--retransmit {self.rounds} must be in 0..{MAX_ROUNDS}.")
        if not 0 < self.share <= 1:
            raise ConfigError(f"--retransmit-share {self.share:g} must lie above 0 and be at most 1.")


@dataclass(frozen=True)
class Round:
    """One transmission: the first one, or the answer to a request.

    Attributes:
        request: JSON of the request that it answers; empty for the first one.
        frames: sent.
        channel_uses: symbols of images that were sent.
        first_sample: of the recording, where what was received of it begins.
    """

    request: str
    frames: int
    channel_uses: int
    first_sample: int


@dataclass(frozen=True, eq=False)
class AskedLink:
    """A transmission with all that was asked for again.

    Attributes:
        link: all recordings one behind another, without the truth about the channel.
        result: of the decoding.
        rounds: in order; the first is the transmission itself.
        times: by image id, how often its symbols were sent on average.
    """

    link: LinkRun
    result: DecodeResult
    rounds: tuple[Round, ...]
    times: Mapping[str, float]


def send_and_ask(
    transmission: Transmission,
    receiver: AskingReceiver,
    asked: Retransmission,
    send: Callable[[Sequence[FrameContent], int], LinkRun],
    progress: Progress,
) -> AskedLink:
    """Send a transmission, and again what the receiver asks for.

    Args:
        transmission: its frames numbered from 0.
        receiver: that has heard nothing yet.
        asked: how often and how much.
        send: sends frames over the link, in the round of this number, whose channel and noise are new.
        progress: called as decoding goes on.

    Raises:
        OtaError: a link that fails, or a recording that can't be decoded.
    """
    repeater = Repeater(transmission)
    links: list[LinkRun] = []
    rounds: list[Round] = []
    frames, request = list(transmission.frames), ""
    before = 0
    for number in range(asked.rounds + 1):
        if number:
            request = receiver.ask(asked.share).to_json()
            frames = repeater.answer(RepeatRequest.from_json(request))
        link = send(frames, number)
        receiver.hear(link.recording, progress)
        start = sum(each.recording.num_samples for each in links)
        rounds.append(Round(request, len(frames), repeater.channel_uses - before, start))
        before = repeater.channel_uses
        links.append(link)
    return AskedLink(_joined(links), receiver.result, tuple(rounds), repeater.times)


def _joined(links: Sequence[LinkRun]) -> LinkRun:
    """Return several transmissions over a link as one."""
    first = links[0]
    recordings = [link.recording for link in links]
    recording = replace(
        recordings[0],
        samples=np.concatenate([recording.samples for recording in recordings]),
        others=tuple(map(np.concatenate, zip(*(recording.others for recording in recordings), strict=True))),
        health=None,  # type: ignore[arg-type]  # measured anew
        partial=any(recording.partial for recording in recordings),
    )
    return replace(
        first,
        recording=recording,
        processes=tuple(process for link in links for process in link.processes),
        seconds=sum(link.seconds for link in links),
        truth=None,
    )


def another_draw(options: str, number: int, default: int | None = None) -> str:
    """Return options of a simulated channel with the seed of a round.

    Args:
        options: key=value,.. with a seed or without.
        number: of the round; round 0 is left as it is.
        default: seed where none is given; None: options without one stay so.

    >>> another_draw("taps=8,seed=3", 1)
    'taps=8,seed=1000003'
    """
    items = [item for item in options.split(",") if item]
    seeds = [item.partition("=")[2] for item in items if item.startswith("seed=")] or [default]
    if not number or seeds[0] is None or not str(seeds[0]).isdecimal():
        return options
    kept = [item for item in items if not item.startswith("seed=")]
    return ",".join([*kept, f"seed={int(seeds[0]) + SEEDS_APART * number}"])


def radio_of_round(uri: str, number: int) -> str:
    """Return a radio's URI in a round of asking: a simulated radio draws its channel and noise anew.

    >>> radio_of_round("sim:csnr_db=3", 2), radio_of_round("pluto:usb:", 2)
    ('sim:csnr_db=3,seed=2000000', 'pluto:usb:')
    """
    address = parse_uri(uri)
    return f"sim:{another_draw(address.rest, number, 0)}" if address.scheme == "sim" else uri
