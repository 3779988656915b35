"""Synchronisation: find frames in samples, estimate timing, carrier and clock offset, noise; read headers.

Steps, each on bounded chunks of samples:

1. *Candidates*: the correlation between two successive half symbols, normalised by both their energies (Schmidl and
   Cox, IEEE Trans. Commun. 45(12), 1997, with the geometric instead of the arithmetic mean of the energies, which
   makes its distribution under white noise exact: P(metric > x) = (1 - x)^(N/2 - 1)). The threshold is low; noise
   passes it with `detection.CANDIDATE_FALSE_ALARM` per sample.
2. *Confirmation*: after the fractional offset is removed, both preambles are correlated with the known ones for every
   carrier offset in whole carriers. A frame concentrates the energy in a window as long as a channel, noise spreads
   it (a Beta distribution, threshold at `detection.CONFIRM_FALSE_ALARM` per hypothesis).
3. *Timing*: the evidence of each start under channels of exponential profile, marginalised over the taps.
4. *Carrier offset*: half symbols, then preamble A against B, then the header blindly (its BPSK squared), and, once the
   header is read, header and preambles as known symbols.
5. *Noise and signal power*: from carriers and samples that are empty, and from the header's scatter.
6. *Phase and clock over pilots and data*: from tracking carriers, or, where the layout has none, from the squares of
   the data cells, whose mean is not zero for symbols that are not circular. No decision on the data is taken, and the
   errors that carrier offset and clock are known to have, and the header's phase jitter, are weighed against it.

Noise that is not white: before step 1 jammed bands are taken down (`interference`); from step 3 on, sums over carriers
and symbols are weighed by the noise of each where preambles or header show that it differs (`uneven`).

Steps 1 to 5 use neither pilots nor data. Step 6 turns whole symbols against each other; what they have in common is
left, so that a blind decoder finds them as they came.

Convention: `SyncedFrame.start` is a sample index `advance` samples before the first path's arrival. Symbol m's window
begins at `start + m * (N + cp) + cp`; the carrier correction has phase 0 at sample `start`. A path that arrives at
sample `start + d` is tap d, so the first path is usually tap `advance` and a timing error moves the taps by one or two.

Modules in reading order: `preamble` (from samples to frames), `detection` (steps 1 and 2), `reading` (the order of
steps 3 to 6), `batch` (F frames that take these steps together), `known` (the symbols that a receiver knows, timing
evidence, LMMSE taps), `offsets`, `levels`, `tracking` (one step each), `header_following` (headers whose channel
moves), `interference`, `uneven` and `noise_powers` (noise that is not white), `frame` (the result), `arrays`
(operations), `rate` (the check of the sampling rate). `prefix` finds frames by their cyclic prefix alone instead.

Arrays of steps 3 to 6. F frames; N carriers in FFT order; H symbols before the pilots (preambles and header), of which
M are known (H, or 2 where the header is not read); P pilot and S data symbols; L taps:

    name        shape         meaning
    start       (F,)          sample index that tap 0 refers to
    cfo_hz      (F,)          carrier offset
    noise_var   (F,)          noise power per carrier
    power       (F,)          signal power per active carrier
    grid        (F, H, N)     received preambles and header, unitary FFT, carrier offset removed within each symbol
    turns       (F, H)        cycles by which each whole symbol has yet to be turned for the carrier offset
    spin        (F, H)        exp(2 pi i turns)
    conjugate   (F, M, N)     X^*, the known symbols' conjugate
    weight      (F, H, N)     noise level over the noise of each cell, None where noise is white
    products    (F, M, N)     Y X^*, weighted, not turned yet
    correlated  (F, N)        sum of Y X^* over the symbols, turned
    matched     (F, N)        its inverse transform: the matched filter's output at every lag
    taps        (F, L)        LMMSE estimate of the channel
    response    (F, N)        the channel on every carrier
    phase       (F, M - 1)    phase of each known symbol but preamble A against the channel that all show, rad
    delay       (F, M - 1)    delay of these, samples
    tail        (F, P + S, N) received pilots and data
    times       (symbols,)    seconds from a frame's start to the middle of each symbol
    omega       (N,)          phase per carrier of a delay of one sample, rad
"""
