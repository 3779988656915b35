"""The link over emulated radios: pictures come, controls reach the devices, muting silences them."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from lab.live.controls import read_command
from lab.live.engine import Engine
from lab.live.settings import LiveChannel, LiveSettings, make_plan
from lab.live.wire import read_header
from receiver.decode import DecodeSettings
from sdr.air.impairments import noise_var_for_csnr
from sdr.emulated.air import Air, AirPath
from sdr.emulated.pluto import EmulatedPluto
from sdr.emulated.pluto_context import PHY
from sdr.emulated.usrp import EmulatedUsrp
from sdr.errors import InputError, OtaError
from sdr.layout import load_layout
from sdr.radios.pluto import MUTED_DB
from sdr.recordings.antennas import read_antennas

LAYOUT = load_layout("air")
LIMIT_S = 90.0
"""Generous: the machine may be busy."""


class Watched:
    """An engine that runs, and what its messages said."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.numbers: dict[str, dict[str, float]] = {}
        self.images: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []
        self.texts: list[str] = []

    def until(self, condition: Callable[[], object]) -> None:
        """Pump messages until a condition holds."""
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < deadline, (self.texts, self.numbers)
            for header in map(read_header, self.engine.messages()):
                if header["kind"] == "status":
                    self.numbers[header["from"]] = header["numbers"]
                elif header["kind"] == "images" and header["from"] == "plain":
                    self.images += header["rows"]
                elif header["kind"] == "frames":
                    self.rows += header["rows"]
                elif header["kind"] == "event":
                    self.texts.append(header["text"])
            self.engine.watch()
            time.sleep(0.01)

    def until_more_images(self) -> None:
        """Wait for images that come from now on."""
        count = len(self.images)
        self.until(lambda: len(self.images) >= count + 8)

    def set(self, name: str, value: object) -> None:
        """Do what a page asks for."""
        self.engine.order(*read_command(json.dumps({"set": name, "value": value}), self.engine.controls))


@contextmanager
def running(tmp_path, **options) -> Iterator[Watched]:
    settings = LiveSettings(
        layout="air", fps=16.0, method="hifi:steps=2", decoding=DecodeSettings(draws=1), out=tmp_path, **options
    )
    with Engine(make_plan(settings)) as engine:
        yield Watched(engine)


def check_accepted(watched: Watched) -> None:
    """Most images are accepted, once the machine keeps up, and no frame was read twice."""
    watched.until(lambda: sum(row["accepted"] for row in watched.images[-8:]) >= 6)
    assert watched.numbers["receiver"]["frames_twice"] == 0


def rx_settings(pluto: EmulatedPluto) -> tuple[float, float]:
    """Carrier and gain of a Pluto's receiver."""
    read = pluto.transceiver.read
    gain_db = read((PHY, "INPUT", "voltage0", "hardwaregain"))
    return float(read((PHY, "OUTPUT", "altvoltage0", "frequency"))), float(gain_db.split()[0])


def test_a_pluto_shows_its_link_takes_its_settings_and_is_silent_when_muted(tmp_path):
    with (
        EmulatedPluto(Air(noise_var=noise_var_for_csnr(LAYOUT, 20) * 0.25)) as pluto,
        running(tmp_path, radio=f"pluto:{pluto.uri},tx_gain_db=-3,rx_gain_db=10") as watched,
    ):
        watched.until_more_images()
        check_accepted(watched)
        assert pluto.tx_gain_db == -3.0 and watched.engine.values["rx_gain_db"] == 10.0
        watched.until(lambda: {"center_hz", "tx_gain_db", "rx_gain_db"} <= set(watched.engine.controls))
        for name, value in (("tx_gain_db", 0.5), ("tx_gain_db", -90.0), ("rx_gain_db", 200), ("center_hz", 1e3)):
            with pytest.raises(InputError, match="must be a number in"):
                watched.set(name, value)
        watched.set("tx_gain_db", -6.0)
        watched.until(lambda: pluto.tx_gain_db == -6.0)
        watched.set("rx_gain_db", 4.0)
        watched.set("center_hz", 915e6)
        chip = pluto.transceiver
        watched.until(lambda: chip.tx_center_hz == 915e6 and rx_settings(pluto) == (915e6, 4.0))
        watched.until_more_images()
        watched.set("mute", True)
        watched.until(lambda: pluto.tx_gain_db == MUTED_DB and not pluto.transmitting)
        watched.set("mute", False)
        watched.until(lambda: pluto.tx_gain_db == -6.0 and chip.tx_center_hz == 915e6)
        watched.until_more_images()
    assert pluto.tx_gain_db == MUTED_DB and not pluto.transmitting


def test_two_antennas_of_a_pluto_are_shown_as_one(tmp_path):
    """Both hear a channel of their own; what is recorded meanwhile has both."""
    with (
        EmulatedPluto(Air(AirPath(taps=4), noise_var_for_csnr(LAYOUT, 20) * 0.25), rx=2) as pluto,
        running(tmp_path, radio=f"pluto:{pluto.uri},rx=2,tx_gain_db=-3,rx_gain_db=10") as watched,
    ):
        watched.until_more_images()
        check_accepted(watched)
        watched.engine.order("record_last", None)
        watched.until(lambda: list(tmp_path.glob("recording-*.sigmf-meta")))
    (path,) = tmp_path.glob("recording-*.sigmf-meta")
    one, other = read_antennas([path]).antennas
    assert one.size == other.size > 100_000 and not np.allclose(one, other)


def test_two_antennas_of_a_simulated_air(tmp_path):
    with running(tmp_path, radio="sim:rx=2", channel=LiveChannel(csnr_db=15.0)) as watched:
        watched.until_more_images()
        check_accepted(watched)
    for uri, words in (("sim:rx=2,taps=4", "leave all but rx="), ("sim:rx=9", "outside 1..8")):
        with pytest.raises(OtaError, match=words):
            make_plan(LiveSettings(radio=uri))
    with pytest.raises(OtaError, match="interference"):
        make_plan(LiveSettings(radio="sim:rx=2", channel=LiveChannel(impairments="tone=0.1")))
    plan = make_plan(LiveSettings(radio="sim:rx=2", layout="blind"))
    assert "blind" in plan.methods and "blind-closed-form" not in plan.methods


def test_a_usrp_sends_and_hears_in_one_process_and_is_silent_when_muted(tmp_path):
    with (
        EmulatedUsrp(Air(noise_var=noise_var_for_csnr(LAYOUT, 20) * 1e-2), "127.0.42.7") as usrp,
        running(tmp_path, radio=f"uhd:{usrp.args},tx_gain_db=20,rx_gain_db=0") as watched,
    ):
        watched.until_more_images()
        check_accepted(watched)
        assert usrp.tx_gain_db == 20.0
        with pytest.raises(InputError, match=r"0\.\.31\.5"):
            watched.set("tx_gain_db", 32.0)
        lost = watched.numbers["transmitter"]["overflows"]
        usrp.overflow()
        watched.until(lambda: watched.numbers["transmitter"]["overflows"] > lost)
        watched.set("tx_gain_db", 25.0)
        watched.set("center_hz", 915e6)
        watched.until(lambda: usrp.tx_gain_db == 25.0)
        watched.until_more_images()
        watched.set("mute", True)
        watched.until(lambda: usrp.tx_gain_db == 0.0)
        sent = watched.numbers["transmitter"]["frames_sent"]
        samples = watched.numbers["receiver"]["samples"]
        watched.until(lambda: watched.numbers["receiver"]["samples"] > samples + 1e6)
        assert watched.numbers["transmitter"]["frames_sent"] <= sent + 8
        watched.set("mute", False)
        watched.until_more_images()
        assert usrp.tx_gain_db == 25.0
    assert usrp.tx_gain_db == 0.0
