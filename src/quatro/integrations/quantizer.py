"""transformers' quantizer interface: quantize while loading, or load what was quantized before."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import get_module_from_name

from quatro.format.errors import CheckpointError, NonFiniteError
from quatro.integrations.base import carry, source_fingerprint
from quatro.integrations.config import QuatroConfig
from quatro.integrations.experts import matrices, replace_experts, tell_shapes
from quatro.integrations.layers import replace_linears, widen_norms
from quatro.nn.experts import Experts4bit
from quatro.nn.linear import Linear4bit
from quatro.tensor.quantized import quantize_with


class QuatroHfQuantizer(HfQuantizer):
    """Loads linear layers into Linear4bit: from 32 or 16 bits (quantizing each weight as it arrives) or from quatro's own files."""

    quantization_config: QuatroConfig
    requires_calibration = False

    def __init__(self, quantization_config: QuatroConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self.dense_layers: dict[str, str] = {}
        self.failure: NonFiniteError | None = None
        self.layout: Callable[[PreTrainedModel], dict[str, Tensor]] | None = None
        """What save_pretrained writes, where that is not the modules' own state dict."""

    @property
    def quantized_element_size(self) -> float:
        """Bytes a quantized weight takes, for device maps."""
        return 0.5

    @property
    def is_trainable(self) -> bool:
        """Adapters train on it; the base stays frozen."""
        return True

    @property
    def is_compileable(self) -> bool:
        """The ops trace under torch.compile."""
        return True

    def is_serializable(self) -> bool:
        """save_pretrained writes codes and scales under the modules' own names."""
        return True

    def get_state_dict_and_metadata(self, model: PreTrainedModel) -> tuple[dict[str, Tensor] | None, dict[str, str]]:
        """None is the model's own."""
        return None if self.layout is None else self.layout(model), {}

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **kwargs: Any) -> bool:
        """Only the weights of the layers that were put in place."""
        module, name = get_module_from_name(model, param_name)
        if isinstance(module, Experts4bit):
            return name in module.projections
        return isinstance(module, Linear4bit) and name == "weight"

    def get_quantize_ops(self) -> ConversionOps:
        """What the loader calls with each dense weight."""
        return QuantizeWeight(self)

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: list[str] | None = None, **kwargs: Any
    ) -> PreTrainedModel:
        if checkpoint_files and not self.pre_quantized:
            carry(model.config, source_fingerprint(Path(checkpoint_files[0]).parent, model.config, quantized=False))
        if hasattr(model.config, "rescale_every"):  # RWKV would divide weights in place, which codes do not allow
            model.config.rescale_every = 0
        self.dense_layers = replace_linears(model, self.quantization_config)
        self.dense_layers |= replace_experts(model, self.quantization_config)
        widen_norms(model)
        packed = [module for module in model.modules() if isinstance(module, Linear4bit | Experts4bit)]
        if not packed:
            raise CheckpointError(
                f"{type(model).__name__} has no linear layer to quantize; "
                f"{len(self.dense_layers)} stay dense: {', '.join(list(self.dense_layers)[:5]) or 'none at all'}"
            )
        for module in packed:
            module._is_hf_initialized = True  # codes cannot be drawn at random; what is missing is reported instead
        return model

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        if self.failure is not None:
            raise self.failure
        tell_shapes(model)
        return model


class QuantizeWeight(ConversionOps):
    """One dense weight -> the codes and scales of its layer."""

    def __init__(self, hf_quantizer: QuatroHfQuantizer) -> None:
        self.hf_quantizer = hf_quantizer

    def convert(
        self,
        input_dict: dict[str, Tensor | list[Tensor]],
        model: torch.nn.Module | None = None,
        missing_keys: set[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        """{weight name: dense} -> {weight name: codes, scale names: scales}."""
        converted: dict[str, Tensor] = {}
        for name, value in input_dict.items():
            dense = value[0] if isinstance(value, list) else value
            try:
                parts = self._quantize(name, dense, model)
            except NonFiniteError as error:
                # The loader would swallow it; it is raised when loading has ended, and until then zeros stand in.
                self.hf_quantizer.failure = self.hf_quantizer.failure or error
                parts = self._quantize(name, torch.zeros_like(dense), model)
            if missing_keys is not None:
                missing_keys.difference_update(parts)
            converted |= parts
        return converted

    def _quantize(self, name: str, dense: Tensor, model: torch.nn.Module) -> dict[str, Tensor]:
        layer, own = get_module_from_name(model, name)
        if isinstance(layer, Experts4bit):
            return self._quantize_experts(layer, own, name, dense)
        source = dense.T.contiguous() if getattr(layer, "transposed_source", False) else dense
        tensor = quantize_with(source, layer.spec, name)
        prefix = name.removesuffix("weight")
        scales = {prefix + part: value for part, value in layer.scale_parts(tensor).items()}
        return {name: torch.nn.Parameter(tensor.codes, requires_grad=False)} | scales

    def _quantize_experts(self, layer: Experts4bit, own: str, name: str, dense: Tensor) -> dict[str, Tensor]:
        experts = matrices(dense, layer.is_transposed)
        tensors = [quantize_with(expert.contiguous(), layer.spec, f"{name}[{index}]") for index, expert in enumerate(experts)]
        found = {name.removesuffix(own) + key: part for key, part in layer.stacked(own, tensors).items()}
        return found | {name: torch.nn.Parameter(found[name], requires_grad=False)}
