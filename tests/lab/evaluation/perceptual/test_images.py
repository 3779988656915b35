"""Features of originals: computed once, kept up to a number of bytes."""

from __future__ import annotations

import pytest
import torch

from lab.evaluation.perceptual import images
from lab.evaluation.perceptual.images import of_originals


def test_features_of_originals_are_computed_once_and_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[float] = []

    def features(batch: torch.Tensor) -> list[torch.Tensor]:
        computed.append(float(batch.mean()))
        return [batch * 2]

    first, second = torch.full((1, 3, 8, 8), 0.25), torch.full((1, 3, 8, 8), 0.5)
    monkeypatch.setattr(images, "CACHE_BYTES", first.nbytes)
    for original in (first, first.clone(), second, first):
        assert torch.equal(of_originals("test", features, original)[0], original * 2)
    assert computed == [0.25, 0.5, 0.25]
    of_originals("another", features, first)
    assert len(computed) == 4
