"""Estimate noise powers that differ from carrier to carrier and from symbol to symbol, by empirical Bayes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.float64]

#: Noise powers that a carrier may have, over the median of all, and those that a burst adds, over the common one.
_CARRIER_RATIOS = 10 ** (np.arange(-25, 41) / 10)
_BURST_RATIOS = np.concatenate([[0.0], 10 ** (np.arange(-10, 51) / 10)])
#: Rounds in which the prior of carriers is found.
_PRIOR_ROUNDS = 30
#: Odds that a burst strikes a symbol.
_BURST_ODDS = 0.02


def carrier_noise(found: Real, freedom: float) -> Real:
    """Return the noise powers (A,) of the carriers of a frame, the inverse of the expected inverse of each.

    The distribution of powers that explains all carriers best, on a grid of decibels, is the prior of each.

    Args:
        found: (A,) mean squared errors.
        freedom: complex degrees of freedom that each of them is taken over.
    """
    middle = max(float(np.median(found)), 1e-4 * float(found.mean()), 1e-300)
    log_likelihood = -freedom * (np.log(_CARRIER_RATIOS) + found[:, None] / middle / _CARRIER_RATIOS)
    likelihood = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
    prior = np.full(_CARRIER_RATIOS.size, 1 / _CARRIER_RATIOS.size)
    for _ in range(_PRIOR_ROUNDS):
        prior = (likelihood * (prior / (likelihood @ prior)[:, None])).mean(axis=0)
    posterior = likelihood * prior
    return middle * posterior.sum(axis=1) / (posterior @ (1 / _CARRIER_RATIOS))


def burst_noise(powers: Real, predicted: Real, excess_variance: float) -> Real:
    """Return the noise (M,) that bursts add to symbols, by the powers (M, A) of their cells; all over the common noise.

    Args:
        powers: found.
        predicted: expected without a burst.
        excess_variance: variance of the powers over that of a complex Gaussian variable's; the likelihood counts by so
            much less.
    """
    total = predicted[:, None] + _BURST_RATIOS[:, None]
    log_likelihood = -(np.log(total) + powers[:, None] / total).sum(axis=2) / excess_variance
    odds = np.full(_BURST_RATIOS.size, _BURST_ODDS / (_BURST_RATIOS.size - 1))
    odds[0] = 1 - _BURST_ODDS
    log_posterior = log_likelihood + np.log(odds)
    posterior = np.exp(log_posterior - log_posterior.max(axis=1, keepdims=True))
    return posterior.sum(axis=1) / (posterior @ (1 / (1 + _BURST_RATIOS))) - 1
