"""What a sampler is given, and what a method is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from receiver.channel.decoding import decoder_csnr_db
from receiver.channel.prior import ChannelPrior
from receiver.codecs.codec import Codec
from receiver.error_net import ErrorNet
from receiver.measurement.model import Measurement
from receiver.priors.denoiser import Denoiser
from receiver.priors.symbols import SymbolMixture
from receiver.samplers.nuisance import NuisanceEstimate
from receiver.samplers.posterior import Posterior
from receiver.samplers.randomness import Randomness
from receiver.samplers.settings import MethodSettings
from sdr.errors import ConfigError

LARGE_SIDE = 128
"""Images are large from so many pixels on their longer side."""

SMALL_LEVEL, LARGE_LEVEL, LOST_LEVEL = 119, 200, 900
"""First levels: what is decoded of 32x32 pixels has its shapes, what is decoded of photographs lacks more, and where a
frame was lost the prior has to begin anew."""


@dataclass(frozen=True)
class Channel:
    """What the receiver knows of the channel.

    Attributes:
        prior: of the taps; all that a blind method is given.
        h: (F, L) complex taps estimated from pilots; None where there are none or they must not be used.
    """

    prior: ChannelPrior
    h: Tensor | None = None


@dataclass(frozen=True)
class Models:
    """The models that a method may use.

    Attributes:
        codec: encoder and decoder.
        denoiser: the diffusion prior; None where there is none, then only methods that need none can be used.
        codebook: (n, C, H, W) images in [0, 1] for the blind initialisation, or None.
        mixture: of the codec's symbols, for the same, or None.
        error_net: tells how wrong a decoded image is, or None.
    """

    codec: Codec
    denoiser: Denoiser | None = None
    codebook: Tensor | None = None
    mixture: SymbolMixture | None = None
    error_net: ErrorNet | None = None


@dataclass(frozen=True)
class Problem:
    """One batch to decode: everything a method may use.

    Attributes:
        nuisance: the measurement, and what is known of its further unknowns.
        models: codec, denoiser and what starts a blind method.
        channel: prior of the taps, and their estimate.
        settings: of the method.
        generator: of what is drawn for an image.
        frame_generator: of what is drawn for a frame's channel.
        draws: copies of each image, one draw of the posterior each.
        on_step: called with the index of a step and x0_hat (diffusion scale).
    """

    nuisance: NuisanceEstimate
    models: Models
    channel: Channel
    settings: MethodSettings
    generator: Randomness
    frame_generator: Randomness
    draws: int = 1
    on_step: Callable[[int, Tensor], None] | None = None

    @property
    def measurement(self) -> Measurement:
        """The measurement without what was found of phases, delays and noise."""
        return self.nuisance.measurement

    @property
    def codec(self) -> Codec:
        """Encoder and decoder."""
        return self.models.codec

    @property
    def denoiser(self) -> Denoiser:
        """The diffusion prior.

        Raises:
            ConfigError: there is none.
        """
        if self.models.denoiser is None:
            raise ConfigError("This method needs a prior and there is none: use jscc or blind-jscc.")
        return self.models.denoiser

    @property
    def error_net(self) -> ErrorNet:
        """The network that tells how wrong a decoded image is.

        Raises:
            ConfigError: there is none.
        """
        if self.models.error_net is None:
            raise ConfigError("This method needs a network of confidence, there is none: use guided or blind-guided.")
        return self.models.error_net

    @property
    def first_level(self) -> int:
        """Diffusion step of 1000 to which decoded images are diffused, where eq. (21) does not say."""
        side = max(self.measurement.image_shape[1:])
        usual = SMALL_LEVEL if side < LARGE_SIDE else LARGE_LEVEL
        return self.settings.first_level or (LOST_LEVEL if bool(self.lacks_symbols.any()) else usual)

    @property
    def lacks_symbols(self) -> Tensor:
        """(B,) whether some of an image's symbols were in a frame that was lost."""
        return ~self.measurement.arrived.all(dim=1)

    @property
    def h(self) -> Tensor:
        """(F, L) taps estimated from pilots.

        Raises:
            ConfigError: there are none.
        """
        if self.channel.h is None:
            raise ConfigError("This method needs a channel estimate and there is none: use a blind method.")
        return self.channel.h

    @property
    def encoder_csnr_db(self) -> Tensor:
        """(B,) CSNR that the encoder was told (read from the header)."""
        return self.measurement.csnr_db

    @property
    def decoder_csnr_db(self) -> Tensor:
        """The receiver's own estimate, (B,), up to what the codec was trained with."""
        return decoder_csnr_db(self.measurement)

    def posterior(self, x: Tensor, h: Tensor, trace: Tensor | None = None, x_d: Tensor | None = None) -> Posterior:
        """Return the answer: images (B, C, H, W), taps (F, L), potentials (steps, B) if any were taken.

        Args:
            x_d: (B, C, H, W) what the decoder makes of the measurement with these taps, where that is known.
        """
        trace = x.new_zeros(0, x.shape[0]) if trace is None else trace
        return Posterior(x, h, trace, self.measurement, self.draws, x_d)


Method = Callable[[Problem], Posterior]
