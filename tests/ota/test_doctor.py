"""What the doctor says of radios."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ota.doctor import usb_radios
from sdr.emulated.air import Air
from sdr.emulated.pluto import EmulatedPluto


def plug(sysfs: Path, nodes: Path, vendor: str, product: str, speed: str, mode: int) -> None:
    """A device as the kernel shows it."""
    device = sysfs / "1-2"
    device.mkdir(parents=True)
    facts = {"idVendor": vendor, "idProduct": product, "speed": speed, "busnum": "1", "devnum": "7"}
    for name, value in facts.items():
        (device / name).write_text(f"{value}\n")
    node = nodes / "001" / "007"
    node.parent.mkdir(parents=True)
    node.touch()
    node.chmod(mode)


@pytest.mark.parametrize(
    ("vendor", "product", "speed", "ok", "says"),
    [
        ("0456", "b673", "480", True, "480 Mbit/s"),
        ("0456", "b673", "12", False, "needs 480"),
        ("2500", "0020", "5000", True, "5000 Mbit/s"),
        ("2500", "0020", "480", False, "needs 5000"),
    ],
)
def test_usb_speed(tmp_path: Path, vendor: str, product: str, speed: str, ok: bool, says: str) -> None:
    plug(tmp_path / "sys", tmp_path / "dev", vendor, product, speed, 0o666)
    (finding,) = usb_radios(tmp_path / "sys", tmp_path / "dev")
    assert finding.ok is ok
    assert says in finding.found
    assert bool(finding.remedy) is not ok


def test_usb_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plug(tmp_path / "sys", tmp_path / "dev", "0456", "b673", "480", 0o600)
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may open anything
    (finding,) = usb_radios(tmp_path / "sys", tmp_path / "dev")
    assert not finding.ok
    assert "no permission" in finding.found and "udev" in finding.remedy


def test_other_devices_are_no_radios(tmp_path: Path) -> None:
    plug(tmp_path / "sys", tmp_path / "dev", "1d6b", "0002", "480", 0o666)
    (tmp_path / "sys" / "1-0:1.0").mkdir()
    assert usb_radios(tmp_path / "sys", tmp_path / "dev") == []


def test_a_radio_is_opened_and_measured(ota: Callable, refused: Callable) -> None:
    with EmulatedPluto(Air(), "pluto") as pluto:
        outcome = ota("doctor", "--radio", f"pluto:{pluto.uri}", "--seconds", "0.5", "--json")
    checks = {check["what"]: check for check in outcome.json["checks"]}
    assert checks["firmware"]["found"]
    assert "of 1 MS/s" in checks["sustained rate"]["found"]
    assert "libiio" in checks["libiio"]["found"] and checks["libiio"]["ok"]
    assert checks["UHD"]["ok"]
    assert "refused" in refused("doctor", "--radio", "pluto:ip:127.0.0.1:1")


def test_two_antennas_are_captured_at_once(ota: Callable) -> None:
    with EmulatedPluto(Air(noise_var=1e-4), "pluto", rx=2) as pluto:
        outcome = ota("doctor", "--radio", f"pluto:{pluto.uri},rx=2,rx_gain_db=0", "--seconds", "0.1", "--json")
    checks = {check["what"]: check for check in outcome.json["checks"]}
    assert checks["antennas"]["found"] == "2 together, -40, -40 dBFS"
    assert "of 1 MS/s over" in checks["sustained rate"]["found"]
