"""The only home of GNU Radio: framer, transmit, channel and receive flowgraphs, and what starts and stops them.

Two kinds of modules live here. `pdu`, `supervisor` and `link` run in the receiver's interpreter and import no
`gnuradio`. `framer`, `fading`, `process`, `transmit`, `channel` and `receive` run in the interpreter that has GNU
Radio, always as processes of their own, and need nothing else but NumPy >= 1.24.
"""
