"""Hugging Face model folders -> model: config.json and safetensors, traced by the class that the config names.

Needs the extra `hf`. Weights are read as float32, whatever they are stored in. Nothing is fetched, no code that lies in
the folder is run, and no pickle is read. Batch and sequence are dynamic; encoders give `last_hidden_state`, models with
a head give what the head returns (`logits`, `start_logits`, ...).
"""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from .errors import ModelError, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from .dynamic import Dynamic

_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_SAFE = ("model.safetensors", "model.safetensors.index.json")
_EXAMPLE_BATCH, _EXAMPLE_LENGTH = 2, 16
# Tokenizers without a limit store 10**30.
_LONGEST = 1 << 24


def is_model_folder(folder: Path) -> bool:
    """Whether a folder holds a config and weights as transformers saves them."""
    return (folder / "config.json").is_file() and any((folder / name).is_file() for name in (*_SAFE, *_PICKLED))


def read(folder: Path) -> onnx_ir.Model:
    """The model of a Hugging Face folder.

    Raises ModelError for folders without safetensors, damaged ones and such as need their own code; UnsupportedError
    when transformers is missing, and for models that take more than token ids or images.
    """
    if not any((folder / name).is_file() for name in _SAFE):
        raise ModelError(
            f"{folder} holds its weights as pytorch_model.bin, a pickle, and pickles are never loaded: convert them "
            "with model.save_pretrained(folder), which writes model.safetensors"
        )
    try:
        import transformers
    except ImportError as error:
        raise UnsupportedError(f"{folder} is a Hugging Face model: pip install tersor[hf] to read it") from error
    from .trace import trace

    module, missing = _module(folder, transformers)
    inputs, dynamic = _example(module, folder)
    _returning_tensors(module, tuple(inputs))
    absent = [name for name in sorted(missing) if _matters(name, module, inputs)]
    if absent:
        more = f" and {len(absent) - 4} more" if len(absent) > 4 else ""
        raise ModelError(
            f"{folder}: the weights {', '.join(absent[:4])}{more} of {type(module).__name__} are in none of its files, "
            "and transformers made them up: name the right class under architectures in config.json, or train the head"
        )
    return trace(module, kwargs=inputs, dynamic=dynamic)


def _matters(name: str, module: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> bool:
    """Whether what the module returns depends on a weight: not a number goes through everything that reads it."""
    import torch

    weight = module.state_dict()[name]
    if not weight.is_floating_point():
        return True
    with torch.no_grad():
        kept = weight.clone()
        weight.fill_(torch.nan)
        found = module(**inputs)
        weight.copy_(kept)
    return any(value.isnan().any() for value in found.values())


def _module(folder: Path, transformers: ModuleType) -> tuple[PreTrainedModel, set[str]]:
    """The module in float32 for inference, and the weights that the files did not have."""
    import torch

    with _quiet(transformers):
        try:
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:
            raise ModelError(f"{folder / 'config.json'} cannot be used: {_first_line(error)}") from error
        if config.is_encoder_decoder:
            raise UnsupportedError(
                f"{folder} is an encoder-decoder, which runs as two graphs: load each half from code, with "
                "package.module:function returning (module, example inputs, dynamic)"
            )
        name = (config.architectures or ["AutoModel"])[0]
        architecture = getattr(transformers, name, transformers.AutoModel)
        try:
            module, report = architecture.from_pretrained(
                folder,
                config=config,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                dtype=torch.float32,
                attn_implementation="sdpa",
                output_loading_info=True,
            )
        except Exception as error:
            raise ModelError(f"{folder}: {name} cannot be loaded: {_first_line(error)}") from error
    return module.eval(), set(report["missing_keys"])


def _example(module: PreTrainedModel, folder: Path) -> tuple[dict[str, torch.Tensor], Dynamic]:
    """Example inputs of the kind the module takes, and their dynamic dimensions."""
    import torch

    config = module.config.get_text_config() if module.main_input_name == "input_ids" else module.config
    parameters = inspect.signature(module.forward).parameters
    if module.main_input_name == "pixel_values":
        side = config.image_size
        height, width = side if isinstance(side, list | tuple) else (side, side)
        pixels = torch.rand(_EXAMPLE_BATCH, config.num_channels, height, width)
        return {"pixel_values": pixels}, {"pixel_values": {0: "batch"}}
    if module.main_input_name != "input_ids":
        raise UnsupportedError(
            f"{folder} takes {module.main_input_name}; of folders, those that take token ids or images are read: load "
            "the model from code, with package.module:function returning (module, example inputs, dynamic)"
        )
    longest = _longest(config, folder)
    shape = (_EXAMPLE_BATCH, min(_EXAMPLE_LENGTH, longest or _EXAMPLE_LENGTH))
    inputs = {"input_ids": torch.arange(shape[0] * shape[1]).reshape(shape) % config.vocab_size}
    if "attention_mask" in parameters:
        inputs["attention_mask"] = torch.ones(shape, dtype=torch.long)
    if "token_type_ids" in parameters and getattr(config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = torch.zeros(shape, dtype=torch.long)
    return inputs, {name: {0: "batch", 1: ("sequence", 1, longest)} for name in inputs}


def _longest(config: PretrainedConfig, folder: Path) -> int | None:
    """The longest sequence: what the config has positions for and the tokenizer, if there is one, cuts at."""
    limits = [getattr(config, "max_position_embeddings", None)]
    tokenizer = folder / "tokenizer_config.json"
    if tokenizer.is_file():
        try:
            limits.append(json.loads(tokenizer.read_text(encoding="utf-8")).get("model_max_length"))
        except ValueError as error:
            raise ModelError(f"{tokenizer} is no JSON: {error}") from error
    known = [int(limit) for limit in limits if isinstance(limit, int | float) and 1 < limit < _LONGEST]
    return min(known) if known else None


def _returning_tensors(module: PreTrainedModel, names: tuple[str, ...]) -> None:
    """Have `module.forward` take the named inputs only and return its tensors by name: no caches, no hidden states."""
    forward = module.forward
    options = {"use_cache": False} if "use_cache" in inspect.signature(forward).parameters else {}

    def plain(**inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        found = forward(**inputs, **options, return_dict=True)
        if "last_hidden_state" in found:
            return {"last_hidden_state": found["last_hidden_state"]}
        return {name: value for name, value in found.items() if hasattr(value, "shape")}

    # What the inputs are called is read from the signature.
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    plain.__dict__["__signature__"] = inspect.Signature([inspect.Parameter(name, kind) for name in names])
    module.__dict__["forward"] = plain


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextlib.contextmanager
def _quiet(transformers: ModuleType) -> Iterator[None]:
    """No progress bars and no advice from transformers."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
