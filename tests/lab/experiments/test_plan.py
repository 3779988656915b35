"""Files of experiments and campaigns: read strictly, whatever editor wrote them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lab.experiments.campaign import load_campaign
from lab.experiments.plan import load_sweep
from sdr.errors import ConfigError

SWEEP = 'name = "s"\ncsnr_db = [10]\nmethods = ["jscc"]\n'
CAMPAIGN = 'name = "c"\nradio = "sim:"\nimages = "x"\ncsnr_db = [10]\n'
CASES = [(load_sweep, SWEEP), (load_campaign, CAMPAIGN)]


@pytest.mark.parametrize(("load", "text"), CASES, ids=["sweep", "campaign"])
def test_a_byte_order_mark_and_whole_numbers_are_taken(tmp_path: Path, load: Callable, text: str) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(text, encoding="utf-8-sig")
    assert load(path).csnr_db == (10.0,) and isinstance(load(path).csnr_db[0], float)


@pytest.mark.parametrize(("load", "text"), CASES, ids=["sweep", "campaign"])
@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda text: text.replace("[10]", "[true]"), r"csnr_db\[0\] must be a number"),
        (lambda text: text + "seeds = 1\n", "unknown key 'seeds'; did you mean 'seed'"),
        (lambda text: text.replace("name", "nome"), "unknown key 'nome'; did you mean 'name'"),
        (lambda text: "\n".join(text.splitlines()[1:]), "name is missing"),
        (lambda text: text + "seed = 1.5\n", "seed must be a whole number"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, load: Callable, text: str, spoil: Callable, complaint: str) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(spoil(text))
    with pytest.raises(ConfigError, match=complaint):
        load(path)


def test_a_condition_takes_the_file_s_own_channel_unless_it_names_one(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    conditions = '[[conditions]]\nname = "a"\n[[conditions]]\nname = "b"\nchannel = ""\ncsnr_db = 0\n'
    path.write_text(f'{SWEEP}channel = "taps=8"\n{conditions}')
    first, second = load_sweep(path).conditions
    assert (first.channel, first.csnr_db) == ("taps=8", 10.0) and (second.channel, second.csnr_db) == ("", 0.0)


EXPERIMENTS = Path(__file__).resolve().parents[3] / "experiments"


@pytest.mark.parametrize("path", sorted((EXPERIMENTS / "paper").glob("*.toml")), ids=lambda path: path.stem)
def test_the_experiments_of_the_paper_can_be_read(path: Path) -> None:
    sweep = load_sweep(path)
    assert sweep.name == f"paper-{path.stem}" and sweep.layout == "photo" and "jscc" in sweep.methods
