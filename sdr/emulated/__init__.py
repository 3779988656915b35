"""Emulated radios: real wire protocols on loopback sockets, one simulated air between them. NumPy and sockets only."""
