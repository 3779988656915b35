"""Start a local codec at the best linear code, in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lab.training.crops import CropPool
from lab.training.photographs import CROP, shrink
from receiver.codecs.codec import CSNR_RANGE_DB
from receiver.codecs.local import LocalCodec

#: Crops that the distribution of the features' scale is found from.
SCALE_CROPS = 512
#: Shorter sides of the photographs that the codec's linear maps are found from, and the ridge of the regression.
LINEAR_SIDES, RIDGE = (227, 316, 440), 1e-6


def start_linear(codec: LocalCodec, images: Sequence[Tensor], generator: torch.Generator) -> None:
    """Make the codec's linear maps the best ones for photographs (C, H, W), in closed form.

    The encoder's are the principal components of the blocks, the amplitude of each so that its power goes with the root
    of its variance (the least squared error under a power constraint at high SNR). The decoder's are the regression of
    a block's pixels on the features of the block and its neighbours, received at random CSNRs.
    """
    config = codec.config
    side, count = config.side, config.features - 1
    copies = [shrink(image, scale) for image in images for scale in LINEAR_SIDES]
    # Whole blocks only, so that padding counts for nothing.
    copies = [copy[:, : copy.shape[1] // side * side, : copy.shape[2] // side * side] for copy in copies]
    blocks = torch.cat([F.unfold(copy[None], side, stride=side)[0].mT for copy in copies])
    mean = blocks.mean(dim=0)
    variances, vectors = torch.linalg.eigh(((blocks - mean).mT @ (blocks - mean) / len(blocks)).double())
    variances, basis = variances.flip(0)[:count].clamp(min=1e-9), vectors.flip(1)[:, :count].mT
    # A complex symbol of unit power is two reals of half a unit on average.
    amplitude = (variances.sqrt() / variances.sqrt().mean() / 2 / variances).sqrt()
    encoder, decoder = codec.network.encoder.direct, codec.network.decoder.direct
    assert encoder.bias is not None and decoder.bias is not None
    with torch.no_grad():
        encoder.weight.copy_((amplitude[:, None] * basis).view(encoder.weight.shape))
        encoder.bias.copy_(-amplitude * (basis @ mean.double()))
        sent = [encoder(copy[None]) for copy in copies]
        positions = sum(features[0, 0].numel() for features in sent)
        power = sum(features.square().sum(dim=(0, 2, 3)) for features in sent)
        codec.network.decoder.power.copy_(torch.as_tensor(power) / positions)
        crops = encoder(CropPool(images).draw(SCALE_CROPS, CROP, generator).contiguous())
        log_scales = crops.square().mean(dim=(1, 2, 3)).log() / 2
        codec.network.log_scale_mean.copy_(log_scales.mean())
        codec.network.log_scale_std.copy_(log_scales.std())
        inputs = 9 * count + 1
        gram = torch.zeros(inputs, inputs, dtype=torch.float64)
        cross = torch.zeros(inputs, blocks.shape[1], dtype=torch.float64)
        low, high = CSNR_RANGE_DB
        for copy in copies:
            bound = codec.for_shape((copy.shape[0], copy.shape[1], copy.shape[2]))
            csnr_db = low + (high - low) * torch.rand(1, generator=generator)
            z = bound.encode(copy[None], csnr_db)
            noise = torch.view_as_complex(torch.randn(*z.shape, 2, generator=generator))
            received = z + noise * (10 ** (-csnr_db / 10) / 2).sqrt()
            around = F.unfold(codec.network.decoder.wiener(*bound.received_features(received, csnr_db)), 3, padding=1)
            around = torch.cat([around[0].mT, torch.ones(around.shape[2], 1)], dim=1).double()
            # The order in which pixel_shuffle takes a block's pixels is that of unfold.
            pixels = F.unfold(copy[None], side, stride=side)[0].mT.double()
            gram += around.mT @ around
            cross += around.mT @ pixels
        gram += RIDGE * positions * torch.eye(inputs, dtype=torch.float64)
        found = torch.linalg.solve(gram, cross).mT
        decoder.weight.copy_(found[:, :-1].view(decoder.weight.shape))
        decoder.bias.copy_(found[:, -1])
