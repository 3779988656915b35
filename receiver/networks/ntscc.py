"""NTSCC+: nonlinear transform source-channel coding with a rate for every latent position (Wang et al. 2023).

"Improved nonlinear transform source-channel coding to catalyze semantic communications", arXiv 2303.14637. The latents
of an image form a checkerboard; each colour is packed into a map of half the height, and a Swin Transformer turns the
two maps into features, of which position by position only the first `rate` are sent. The entropy model sets the
rates; the receiver must know them (`index`, the place of each position's rate in `RATES`).

The published networks are of two kinds: `plus`, one quality and one SNR, and `compat`, for a range of both, with a
quantiser and with modulation by the SNR. Parameter names and shapes are those of the public checkpoints, so these load
with `load_state_dict(strict=True)`.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from receiver.networks.ntc import NTC, is_anchor
from receiver.networks.swin import (
    Mlp,
    SwinBlock,
    WindowAttention,
    dropping,
    from_windows,
    modulation,
    modulators,
    swin_blocks,
    to_windows,
)

#: Features that a position may send; the first sends none.
RATES = (1, 4, 8, 12, 16, 20, 24, 32, *range(48, 321, 16))
#: Quality levels of `compat`, 0 to 99.
LEVELS = 100
#: Pixels per side of an attention window, attention heads, blocks and hidden units per channel of the transformers.
_SIDE, _HEADS, _DEPTH, _MLP_RATIO = 4, 20, 4, 2.0
_QUANTISER_MIN = 0.5


def rates_sent(index: Tensor) -> Tensor:
    """Return how many features positions send whose rates have the given places in `RATES`."""
    return _sent_at(index.device)[index]


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _sent_at(device: torch.device) -> Tensor:
    """Return the features that are sent at each of `RATES`; taken to a device once, as a GPU would be waited for."""
    return torch.tensor((0, *RATES[1:]), device=device)


def pack(x: Tensor) -> Tensor:
    """Cut maps (B, C, H, W) into the colours of the checkerboard, anchors first: (B, 2, H / 2, W, C)."""
    x = x.permute(0, 2, 3, 1)
    upper, lower = x[:, 0::2], x[:, 1::2]
    even = torch.arange(x.shape[2], device=x.device)[:, None] % 2 == 0
    return torch.stack([torch.where(even, lower, upper), torch.where(even, upper, lower)], dim=1)


def unpack(x: Tensor) -> Tensor:
    """Undo `pack`."""
    anchors, others = x.unbind(1)
    even = torch.arange(x.shape[3], device=x.device)[:, None] % 2 == 0
    rows = torch.stack([torch.where(even, others, anchors), torch.where(even, anchors, others)], dim=2)
    return rows.flatten(1, 2).permute(0, 3, 1, 2)


class _Swin(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.blocks = swin_blocks(channels, _DEPTH, _SIDE, _HEADS, _MLP_RATIO)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class _CrossBlock(nn.Module):
    """A Swin block, never shifted, whose keys come from another map. `norm2` is in the files, but nothing uses it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, _SIDE, _HEADS, cross=True)
        self.norm3 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, int(channels * _MLP_RATIO))

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:
        windows = self.attn(to_windows(self.norm1(x), _SIDE), to_windows(self.norm1(keys), _SIDE))
        x = x + from_windows(windows, *x.shape[1:3])
        return x + self.mlp(self.norm3(x))


class _Cross(nn.Module):
    """Blocks that attend, in turn, to the map itself and to the other one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.slf_blocks = nn.ModuleList(
            SwinBlock(channels, _SIDE, _HEADS, _MLP_RATIO, shifted=False) for _ in range(_DEPTH)
        )
        self.crs_blocks = nn.ModuleList(_CrossBlock(channels) for _ in range(_DEPTH))

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:
        for own, cross in zip(self.slf_blocks, self.crs_blocks, strict=True):
            x = cross(own(x), keys)
        return x


class RateMatrices(nn.Module):
    """A matrix and a bias for each rate."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(len(RATES), channels, channels))
        self.bias = nn.Parameter(torch.zeros(len(RATES), channels))
        nn.init.xavier_normal_(self.weight)
        self.register_load_state_dict_pre_hook(dropping("mask", "rate_choice_tensor"))

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        """(..., C) features and (...) places of their rates to (..., C)."""
        # Every rate's product for every position: to sort positions by rate, a GPU would have to be waited for.
        flat = x.flatten(0, -2)
        every = flat @ self.weight + self.bias[:, None]
        chosen = every.gather(0, index.reshape(1, -1, 1).expand(1, -1, x.shape[-1]))
        return chosen.to(x.dtype).view_as(x)


class _ModNet(nn.Module):
    def __init__(self, channels: int, detach: bool) -> None:
        super().__init__()
        self.sm_list, self.bm_list = modulators(channels, 2)
        self.detach = detach

    def forward(self, x: Tensor, value: Tensor) -> Tensor:
        return x * modulation(self.sm_list, self.bm_list, x, value, self.detach)


class NTSCC(nn.Module):
    """Encoder and decoder. H must divide by 128, W by 64.

    Args:
        compat: whether it adapts to SNR and quality.
        N: channels of the first stage of the transform.
        anchors: entries of the quantiser's scale in the file, of which the first and the last count.
        detach: let no gradient flow through the gains of the modulation into the features that they come from, as the
            public code does. Outputs are the same; gradients are then not those of the encoder.

    Raises:
        ValueError: an N that gives no whole attention heads of 16 channels.
    """

    def __init__(self, compat: bool = False, N: int = 128, anchors: int = 6, detach: bool = False) -> None:
        super().__init__()
        #: Channels of the latents and of the features: the largest rate.
        self.M = M = RATES[-1]
        self.compat = compat
        self.ntc = NTC(N, M)
        self.trans_sep_enc, self.trans_sep_dec = _Swin(M), _Swin(M)
        self.trans_ctx_enc, self.trans_ctx_dec = _Cross(M), _Cross(M)
        self.f_e0, self.f_d0 = _Swin(M), _Swin(M)
        self.rate_token_enc = nn.Parameter(torch.zeros(len(RATES), M))
        self.rate_token_dec = nn.Parameter(torch.zeros(len(RATES), M))
        self.rate_adaption_enc, self.rate_adaption_dec = RateMatrices(M), RateMatrices(M)
        if compat:
            self.modnet_enc, self.modnet_dec = _ModNet(M, detach), _ModNet(M, detach)
            self.qr_basic_A = nn.Parameter(torch.ones(1, M, 1, 1))
            self.qr_basic_NA = nn.Parameter(torch.ones(1, M, 1, 1))
            self.qr_scale = nn.Parameter(torch.linspace(2, 0.5, anchors)[:, None, None, None])
        self.register_load_state_dict_pre_hook(_check_and_drop)

    def quantiser(self, height: int, width: int, level: Tensor) -> Tensor:
        """Return the steps (B, M, height, width) by which latents are divided, for levels (B,); 1 in `plus`."""
        if not self.compat:
            return torch.ones(1, 1, 1, 1, device=level.device)
        low, high = self.qr_scale[0].log(), self.qr_scale[-1].log()
        share = (level / (LEVELS - 1))[:, None, None, None]
        basic = torch.where(is_anchor(height, width, level.device), self.qr_basic_A, self.qr_basic_NA)
        return basic.clamp(min=_QUANTISER_MIN) * torch.exp(low + share * (high - low))

    def latents(self, images: Tensor, level: float | Tensor = 0.0) -> Tensor:
        """Return the latents of images in steps of the quantiser.

        Args:
            images: (B, 3, H, W) in [0, 1].
            level: (B,) or one number, quality from 0 to 99: more sends more. `plus` ignores it.

        Returns:
            (B, M, H/16, W/16).
        """
        y = self.ntc.analyse(images)
        return y / self.quantiser(y.shape[2], y.shape[3], _each(level, y))

    def choose(self, latents: Tensor, eta: float | Tensor = 0.2) -> Tensor:
        """Return the rates that the entropy model asks for, without gradients.

        Training adds noise to the latents, which makes the choice random; here it is not.

        Args:
            latents: (B, M, H/16, W/16) as from `latents`.
            eta: (B,) or one number, features to send for each bit; the published networks know 0.15 to 0.3.

        Returns:
            (B, 2, H/32, W/16) int64 places in `RATES`, anchors first.
        """
        with torch.no_grad():
            wanted = pack((self.ntc.entropy(latents).bits * _each(eta, latents)[:, None, None])[:, None])[..., 0]
            rates = torch.tensor(RATES, device=latents.device, dtype=wanted.dtype)
            return torch.searchsorted(rates, wanted.contiguous()).clamp(max=len(RATES) - 1)

    def features(self, latents: Tensor, index: Tensor, csnr_db: float | Tensor) -> Tensor:
        """Return what is sent.

        Args:
            latents: (B, M, H/16, W/16) as from `latents`.
            index: (B, 2, H/32, W/16) places of the rates in `RATES`.
            csnr_db: (B,) or one number, channel SNR in dB.

        Returns:
            (B, 2, H/32, W/16, M), zero from each position's rate on; not power normalised.
        """
        packed = pack(latents)
        maps = self.trans_sep_enc(packed.flatten(0, 1)).unflatten(0, (-1, 2))
        anchors, others = maps.unbind(1)
        others = self.trans_ctx_enc(others, anchors)
        x = torch.stack([anchors, others], dim=1) + self.rate_token_enc[index]
        x = self.f_e0(x.flatten(0, 1)).unflatten(0, (-1, 2))
        if self.compat:
            x = self.modnet_enc(x, _each(csnr_db, latents))
        return self.rate_adaption_enc(x, index) * self.sent(index)

    def sent(self, index: Tensor) -> Tensor:
        """Return which features are sent: index (...) to bool (..., M)."""
        return torch.arange(self.M, device=index.device) < rates_sent(index)[..., None]

    def decode(self, features: Tensor, index: Tensor, csnr_db: float | Tensor, level: float | Tensor = 0.0) -> Tensor:
        """Return images (B, 3, H, W), about [0, 1], of features as `features` gives them, and with its arguments."""
        x = self.rate_adaption_dec(features, index)
        if self.compat:
            x = self.modnet_dec(x, _each(csnr_db, features))
        else:
            x = x + self.rate_token_dec[index]
        anchors, others = self.f_d0(x.flatten(0, 1)).unflatten(0, (-1, 2)).unbind(1)
        anchors = self.trans_sep_dec(anchors)
        others = self.trans_sep_dec(self.trans_ctx_dec(others, anchors))
        y = unpack(torch.stack([anchors, others], dim=1))
        return self.ntc.synthesise(y * self.quantiser(y.shape[2], y.shape[3], _each(level, y)))


def _each(value: float | Tensor, like: Tensor) -> Tensor:
    """(B,) of one number or one for each of the batch."""
    if isinstance(value, Tensor):
        return value.to(like.device, torch.float32).expand(len(like))
    return torch.full((len(like),), float(value), device=like.device)


def _check_and_drop(
    module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: object, strict: bool, *lists: list[str]
) -> None:
    """Drop what a published file holds twice, after checking that it says the same, and the table of rates."""
    errors = lists[2]
    rates = state.pop(prefix + "rate_choice_tensor", None)
    if rates is not None and tuple(rates.tolist()) != RATES:
        errors.append(f"The rates are {rates.tolist()}, known are {list(RATES)}.")
    for copy, own in (("f_list.0.", "f_e0."), ("f_list.1.", "f_d0.")):
        for key in [key for key in state if key.startswith(prefix + copy)]:
            twin = state.get(prefix + own + key[len(prefix + copy) :])
            value = state.pop(key)
            if twin is not None and not torch.equal(value, twin):
                errors.append(f"{key} differs from its twin in {own}*.")
