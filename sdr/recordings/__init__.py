"""Keep captured samples: SigMF recordings, datasets of many captures, recordings of other tools.

In reading order:

- `sdr.recordings.health`: judges a capture.
- `sdr.recordings.recording`, `sdr.recordings.metadata`: one capture and its SigMF files.
- `sdr.recordings.dataset`: reads many captures in one folder.
- `sdr.recordings.writer`: adds captures to it.
- `sdr.recordings.verify`: checks it.
- `sdr.recordings.foreign`: reads what other tools recorded.
"""
