"""Open radios behind one URI: simulated, a file, ZMQ sockets, ADALM-Pluto, USRP."""
