"""Emulate radios: real wire protocols on loopback sockets, one simulated air between them. NumPy and sockets only.

In reading order:

- `sdr.emulated.air`, `sdr.emulated.emission`: the air that emulated radios share.
- `sdr.emulated.pluto`: an ADALM-Pluto behind the IIOD protocol; `sdr.emulated.pluto_context` describes its devices,
  `sdr.emulated.ad9361` is its transceiver.
- `sdr.emulated.usrp`: an N210 behind the usrp2 protocol; `sdr.emulated.n210_board` has its registers,
  `sdr.emulated.usrp_receiver` and `sdr.emulated.usrp_transmitter` its streams, `sdr.emulated.usrp_ports` and
  `sdr.emulated.n210_wire` what is on the wire.
"""
