"""Make transformers know quant_method "quatro"; called the moment it can build models."""

from transformers.quantizers import auto

from quatro.integrations.config import QUANT_METHOD, QuatroConfig
from quatro.integrations.quantizer import QuatroHfQuantizer


def register() -> None:
    """Enter config and quantizer into transformers' registry; a second call changes nothing."""
    if QUANT_METHOD not in auto.AUTO_QUANTIZATION_CONFIG_MAPPING:
        auto.register_quantization_config(QUANT_METHOD)(QuatroConfig)
        auto.register_quantizer(QUANT_METHOD)(QuatroHfQuantizer)
