"""Open radios behind one URI: simulated, a file, ZMQ sockets, ADALM-Pluto, USRP, SoapySDR.

In reading order:

- `sdr.radios.base`: what a radio is, and what a driver is.
- `sdr.radios.address`: takes URIs apart.
- `sdr.radios.open`: opens the radio that a URI names; alone knows the drivers.
- `sdr.radios.simulated`, `sdr.radios.file`, `sdr.radios.zmq_radio`: radios without hardware.
- `sdr.radios.pluto`, `sdr.radios.libiio`: the ADALM-Pluto.
- `sdr.radios.usrp`, `sdr.radios.uhd_link`, `sdr.radios.uhd_host`, `sdr.radios.uhd_process`: USRPs.
- `sdr.radios.soapy`, `sdr.radios.soapy_process`: whatever SoapySDR drives, on the same way.
- `sdr.radios.served`: hands any of them to another host over ZMQ.
"""
