"""Results of images that were sent by a separation chain."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import torch

from receiver.acceptance import expected_residual_std, residual_limit
from receiver.channel.estimate import ChannelEstimate
from receiver.measurement.model import Measurement
from receiver.priors.denoiser import Denoiser
from receiver.results import ImageResult
from receiver.samplers.randomness import Randomness
from receiver.separation.chain import Chain, decode_blocks
from receiver.separation.refine import refine
from receiver.sync.frame import SyncedFrame


def decode_images(
    label: str,
    chain: Chain,
    frames: Sequence[SyncedFrame],
    measurement: Measurement,
    estimate: ChannelEstimate,
    refining: tuple[Denoiser, Randomness] | None = None,
) -> list[ImageResult]:
    """Decode the images of a measurement; a lost one is the mean colour and not accepted.

    Args:
        label: of the method.
        chain: that sent them.
        frames: F of them, all with headers.
        measurement: of the B images.
        estimate: of the frames' channels.
        refining: prior, and generator of its noise, one an image; None leaves the images as decoded.
    """
    began = time.perf_counter()
    blocks = decode_blocks(chain, measurement, estimate)
    images = torch.stack([block.image for block in blocks])
    if refining is not None:
        denoiser, generator = refining
        device = measurement.y.device
        told = torch.tensor([block.psnr_db for block in blocks], device=device)
        refined = refine(denoiser, images.to(device), told, generator).cpu()
        lost = torch.tensor([block.lost for block in blocks])
        images = torch.where(lost[:, None, None, None], images, refined)
    seconds = (time.perf_counter() - began) / len(blocks)
    noise_var, results = measurement.noise_var.tolist(), []
    for index, (block, place) in enumerate(zip(blocks, measurement.frame_of_image.tolist(), strict=True)):
        frame = frames[place]
        assert frame.header is not None
        results.append(
            ImageResult(
                id=measurement.image_ids[index],
                method=label,
                residual=block.residual,
                residual_std=expected_residual_std(frame, measurement.num_symbols),
                residual_limit=residual_limit(measurement.num_symbols, noise_var[place]),
                expected_psnr_db=block.psnr_db,
                accepted=not block.lost,
                seconds=seconds,
                image=images[index].numpy(),
                frame_number=frame.header.frame_number,
                start_sample=frame.start,
                taps=estimate.taps[place].astype(np.complex64),
                cbr=measurement.num_symbols / math.prod(measurement.image_shape),
                side_cbr=0.0,
            )
        )
    return results
