"""Decode the last second of a live link into a run folder, as `ota decode` does, for `ota report` to read."""

from __future__ import annotations

from dataclasses import replace

from lab.live.process import run_process
from lab.live.settings import Job
from lab.live.wire import Bus
from sdr.layout import save_layout
from sdr.outputs import finished_folder


def write_snapshot(job: Job, recorded: str) -> None:
    """Run the process of a snapshot.

    Args:
        job: what the link is.
        recorded: name of the recording in the output folder, without its suffix.
    """
    run_process(job, lambda job, bus: _write(job, bus, recorded))


def _write(job: Job, bus: Bus, recorded: str) -> None:
    import torch

    from lab.experiments.decode_file import FileSettings, decode_file
    from lab.reports.finished_run import write_decoded_file

    torch.set_num_threads(1)
    plan, settings = job.plan, job.plan.settings
    decoding = replace(
        settings.decoding, steps=job.values.get("steps"), draws=job.values.get("draws", settings.decoding.draws)
    )
    layout = save_layout(plan.layout, job.folder / "snapshot-layout.json")
    chosen = FileSettings(
        settings.out / recorded,
        str(layout),
        job.values.get("method", plan.plain),
        bundle=settings.bundle,
        decoding=decoding,
    )
    decoded = decode_file(chosen)
    out = settings.out / f"{recorded}-run"
    with finished_folder(out) as folder:
        run = write_decoded_file(folder, chosen, decoded)
    text = f"snapshot: {len(run.images)} images of {len(run.frames)} frames in {out}; ota report {out}"
    bus.publish("event", level="info", text=text, snapshot=out.name)
