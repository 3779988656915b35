"""The separation chain: an image codec, then 5G channel code and modulation, on the symbols of a JSCC codec.

Read :mod:`~receiver.separation.schemes` (modulation and code rate), :mod:`~receiver.separation.channel_code` (bits to
symbols and back), :mod:`~receiver.separation.sources` (images to bytes and back), then
:mod:`~receiver.separation.chain`, which joins them.
"""
