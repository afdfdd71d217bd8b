"""How are weights rounded to 4 bits when what they are multiplied with is known?"""

from quatro.quantizers.compensated import quantize_compensated
from quatro.quantizers.distilling import distill
from quatro.quantizers.latent import LatentLinear

__all__ = ["LatentLinear", "distill", "quantize_compensated"]
