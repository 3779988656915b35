"""A small layout with tracking carriers, which no shipped one has."""

from sdr.layout import FrameLayout

SMALL = FrameLayout(
    name="small",
    fft_size=64,
    cp_samples=16,
    rate_sps=1e6,
    active=tuple(range(-26, 0)) + tuple(range(1, 27)),
    data_symbols=4,
    pilot_symbols=2,
    header_symbols=14,
    image_slots=1,
    gap_samples=10,
    seed=7,
    tracking=(-21, -7, 7, 21),
)
