"""The benchmark of asking again counts, pairs and bounds as it says."""

import numpy as np
import pytest

from lab.benchmarks.ask_again import FLAT, ONCE, POLICIES, TWICE, AskedPoint, Setting, measure, summarise


def point(policy: str, seed: int, number: int, psnr_db: tuple[float, ...]) -> AskedPoint:
    return AskedPoint(policy, seed, number, 1.0 + number, psnr_db, 10)


def test_differences_are_paired_by_draw_and_image() -> None:
    points = [
        point(TWICE.name, 0, 1, (20.0, 30.0)),
        point(TWICE.name, 1, 1, (10.0, 20.0)),
        point("other", 0, 2, (21.0, 33.0)),
        point("other", 1, 2, (18.0, 20.0)),
        point("other", 2, 2, (0.0, 0.0)),
    ]
    twice, other = summarise(points)
    assert twice["delta_db"] == 0 and twice["delta_se_db"] == 0
    # Means over images are 2 and 4, over draws 4.5 and 1.5.
    assert other["delta_db"] == pytest.approx(3.0)
    assert other["delta_se_db"] == pytest.approx(1.0) and other["delta_se_images_db"] == pytest.approx(1.5)
    assert other["outage"] == pytest.approx(2 / 6) and other["outage_delta"] == pytest.approx(-0.25)


def test_every_policy_ends_with_the_channel_uses_of_two_transmissions() -> None:
    setting = Setting.of("fashion", 8, "jscc", 8.0)
    points = measure(setting, 1)
    last = {each.policy: each for each in points}
    assert set(last) == {ONCE, FLAT, *(policy.name for policy in POLICIES)}
    assert last[ONCE].channel_uses == 1
    for policy in POLICIES:
        assert last[policy.name].channel_uses == pytest.approx(2, abs=0.02)
        assert np.mean(last[policy.name].psnr_db) > np.mean(last[ONCE].psnr_db)
