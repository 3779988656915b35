"""Keep captured samples: SigMF recordings, datasets of many captures, recordings of other tools.

In reading order:

- `sdr.recordings.health`: judges a capture.
- `sdr.recordings.recording`, `sdr.recordings.metadata`: one capture, and how it is written as SigMF.
- `sdr.recordings.datatypes`, `sdr.recordings.archive`: types of samples, and where they lie.
- `sdr.recordings.reading`: reads SigMF of ours and of others.
- `sdr.recordings.antennas`: joins what antennas of one receiver recorded, chooses among them.
- `sdr.recordings.dataset`: reads many captures in one folder.
- `sdr.recordings.writer`: adds captures to it.
- `sdr.recordings.verify`: checks it.
- `sdr.recordings.foreign`: reads what other tools recorded.
"""
