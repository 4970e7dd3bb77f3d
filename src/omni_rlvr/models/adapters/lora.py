"""Insert, save, load and merge low-rank adapters with peft.

Each part of a policy (its language model, a tower) has an adapter of its own, injected into the
part without a wrapper, so that ``PeftModel.from_pretrained`` can load a saved one onto the bare
part. ``trainable`` decides what else trains.

Reference: LoRA, arXiv 2106.09685.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import peft
from peft.tuners.lora import ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer, cast_adapter_dtype
from torch import Tensor, nn

from omni_rlvr.config.trainable import LoraConfig
from omni_rlvr.distributed import gather
from omni_rlvr.models.adapters.peft_format import (
    PREFIX,
    WEIGHTS,
    PeftAdapter,
    layer_of,
    read_adapter,
)
from omni_rlvr.models.loading.weights import save_weights
from omni_rlvr.models.sharding import state_of
from omni_rlvr.types import UserError, first_line

NAME = "default"
"""peft's name for the only adapter of a part."""
KEY = "model.trainable.lora"
BASE_LAYER = "base_layer"
"""peft's name for the layer that an adapter wraps."""


def is_adapter(name: str) -> bool:
    """Tell whether a weight's name is that of an adapter's weight."""
    return any(step.startswith("lora_") for step in name.split("."))


def base_name(name: str) -> str:
    """Return the name that a weight of the base has without adapters."""
    return ".".join(step for step in name.split(".") if step != BASE_LAYER)


def adapted(parts: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Find the parts that have an adapter."""
    return {
        name: part
        for name, part in parts.items()
        if any(isinstance(module, BaseTunerLayer) for module in part.modules())
    }


def inject(parts: Mapping[str, nn.Module], config: LoraConfig) -> None:
    """Insert new adapters; they change nothing until they are trained, since B is zero.

    Args:
        parts: All parts of a policy by name; ``config.parts`` says which get adapters.
        config: Rank, scale, targets; these must be given.

    Raises:
        UserError: A part does not exist, a target matches no layer, or no target matches a layer
            of a part.
    """
    targets = find_targets(parts, config)
    for name, suffixes in targets.items():
        _inject_one(parts[name], _peft_config(name, parts[name], suffixes, config))


def find_targets(parts: Mapping[str, nn.Module], config: LoraConfig) -> dict[str, list[str]]:
    """Return the suffixes that match linear layers of each part; check ``target_parameters``."""
    assert config.targets is not None  # the caller has set the model's defaults
    layers: dict[str, list[str]] = {}
    for name in config.parts:
        if name not in parts:
            raise UserError(
                f"{KEY}.parts: this model has no part {name!r}; it has {', '.join(parts)}"
            )
        layers[name] = linear_layers(parts[name])
    every = [layer for names in layers.values() for layer in names]
    for suffix in config.targets:
        if not any(_matches(layer, suffix) for layer in every):
            raise UserError(
                f"{KEY}.targets: {suffix!r} matches no linear layer of {', '.join(layers)}"
                f"{_tied_hint(parts, suffix)}; there are e.g. {', '.join(_some(every))}"
            )
    found = {
        name: [s for s in config.targets if any(_matches(layer, s) for layer in names)]
        for name, names in layers.items()
    }
    for suffix in config.target_parameters:
        if not any(_parameters(parts[name], [suffix]) for name in layers):
            bare = [n for name in layers for n, w in parts[name].named_parameters() if w.ndim == 3]
            raise UserError(
                f"{KEY}.target_parameters: {suffix!r} matches no parameter of {', '.join(layers)}; "
                f"there are e.g. {', '.join(_some(bare)) or 'none that are not in a linear layer'}"
            )
    for name, suffixes in found.items():
        if not suffixes:
            raise UserError(
                f"{KEY}.parts: no target matches a linear layer of {name}; there are e.g. "
                f"{', '.join(_some(layers[name]))}"
            )
    return found


def linear_layers(part: nn.Module) -> list[str]:
    """Name the linear layers that can have an adapter.

    An output head that is tied to the embeddings cannot: merging an adapter into it would change
    the embeddings too.
    """
    tied = {id(module.weight) for module in part.modules() if isinstance(module, nn.Embedding)}
    return [
        name
        for name, module in part.named_modules()
        # a layer with an adapter hides its linear layer, which is then named base_layer
        if isinstance(module, nn.Linear | BaseTunerLayer)
        and not isinstance(module, ParamWrapper)
        and not is_adapter(name)
        and not name.endswith(BASE_LAYER)
        and id(module.weight) not in tied
    ]


def merge(policy: nn.Module) -> None:
    """Add every adapter to the weights of its layer, and remove the adapters.

    Raises:
        UserError: An adapter has values that are not finite.
    """

    def merged(layer: BaseTunerLayer) -> None:
        layer.merge(safe_merge=True)  # checks for NaN before the base's weights are overwritten

    try:
        _take_out(policy, merged)
    except ValueError as error:
        raise UserError(f"the adapter cannot be merged: {error}") from error


def drop_idle(policy: nn.Module) -> None:
    """Remove adapters that were never trained; the policy's outputs stay the same."""
    is_trained = any(
        weight.any()
        for name, weight in policy.named_parameters()
        if ".lora_B." in f".{name}" and not weight.is_meta
    )
    if not gather(is_trained)[0]:  # other ranks may not have the weights yet
        _take_out(policy, lambda layer: None)


def save_adapters(parts: Mapping[str, nn.Module], folder: Path, excluded: str | None) -> None:
    """Write each part's adapter in peft's format, to ``folder/<part>``.

    Args:
        parts: All parts of a policy by name.
        folder: The folder to write.
        excluded: A regular expression of layers outside the language model that its targets would
            also match if the adapter is loaded onto the whole model; None for none.

    Raises:
        OSError: The disk is full, or the folder cannot be written.
    """
    for name, part in adapted(parts).items():
        state = {PREFIX + key: value.contiguous() for key, value in _state(part).items()}
        config: Any = copy.copy(config_of(part))
        config.inference_mode = True  # as peft saves it
        if name == "language_model":
            config.exclude_modules = excluded
        (folder / name).mkdir(parents=True)
        save_weights(state, folder / name / WEIGHTS)
        config.save_pretrained(str(folder / name))


def load_adapters(parts: Mapping[str, nn.Module], folder: Path) -> dict[str, dict[str, Tensor]]:
    """Read what ``save_adapters`` wrote into the parts, which may have these adapters already.

    Returns:
        Part -> name -> base weights that an adapter replaces as a whole (``modules_to_save``).

    Raises:
        UserError: An adapter cannot be read, or does not fit its part.
    """
    places = sorted(folder.glob("*/"))
    if not places:
        raise UserError(f"there is no adapter in {folder}")
    found = {}
    for place in places:
        adapter = read_adapter(place, allow_pickle=False)
        if place.name not in parts:
            raise UserError(f"the adapter {place} does not fit this model: it has no {place.name}")
        names = {key: key for key in adapter.weights}
        found[place.name] = put_adapter(place.name, parts[place.name], adapter, names)
    return found


def put_adapter(
    name: str, part: nn.Module, adapter: PeftAdapter, keys: Mapping[str, str]
) -> dict[str, Tensor]:
    """Load an adapter into a part, which may have an adapter of the same shape already.

    Args:
        name: The name of the part.
        part: The part.
        adapter: The adapter's settings and weights.
        keys: The weights that belong to this part: name within the part -> name in the adapter.

    Returns:
        Base weights that the adapter replaces as a whole, by their names within the part.

    Raises:
        UserError: The adapter does not fit the part.
    """
    own = {key: adapter.weights[keys[key]] for key in keys if is_adapter(key)}
    whole = {key: adapter.weights[keys[key]] for key in keys if not is_adapter(key)}
    try:
        if own and not adapted({name: part}):
            layers = {layer_of(key): layer_of(keys[key]) for key in own}
            linear = linear_layers(part)
            bare = {name.rpartition(".")[0] for name in _parameters(part, adapter.parameters)}
            layers = {own: name for own, name in layers.items() if base_name(own) not in bare}
            for layer in layers:
                if layer not in linear:
                    raise ValueError(
                        f"it is on {layer}, which is not a linear layer here (or is tied to the "
                        "embeddings)"
                    )
            config = adapter.config(_targets(part, adapter, [*layers]), layers)
            config.task_type = "CAUSAL_LM" if name == "language_model" else None
            _inject_one(part, config)
        if own:
            _fill(part, own)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"the adapter {adapter.folder} does not fit this model: {first_line(error)}"
        ) from error
    return whole


def _targets(part: nn.Module, adapter: PeftAdapter, layers: list[str]) -> list[str]:
    """Return the adapter's own suffixes if they match exactly these layers, else the layers."""
    given = adapter.settings.get("target_modules")
    if isinstance(given, list):
        linear = linear_layers(part)
        suffixes = [s for s in given if any(_matches(layer, s) for layer in linear)]
        if {n for n in linear if any(_matches(n, s) for s in suffixes)} == {*layers}:
            return suffixes
    return layers


def _fill(part: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Set the weights of a part's adapter; raise ValueError if names or shapes differ."""
    shapes = {key: weight.shape for key, weight in weights.items()}
    own = {key: weight.shape for key, weight in _state(part).items()}
    if shapes != own:
        wrong = sorted(k for k in {*shapes, *own} if shapes.get(k) != own.get(k))
        raise ValueError(f"its weights are not those of its config, e.g. {wrong[0]}")
    state = {PREFIX + key: weight for key, weight in weights.items()}
    is_skeleton = any(weight.is_meta for weight in part.parameters())
    peft.set_peft_model_state_dict(part, state, adapter_name=NAME, low_cpu_mem_usage=is_skeleton)


def check_same(parts: Mapping[str, nn.Module], config: LoraConfig) -> None:
    """Refuse to train a loaded adapter with settings that differ from its own.

    Raises:
        UserError: A setting differs; names the first one.
    """
    has = adapted(parts)
    advice = "give the adapter's own value, or merge it first with task=export"
    if {*has} != {*config.parts}:
        raise UserError(f"{KEY}.parts={config.parts}: the checkpoint has {[*has]}; {advice}")
    for name, suffixes in find_targets(parts, config).items():
        seen, wanted = config_of(has[name]), _peft_config(name, has[name], suffixes, config)
        forms = ("use_dora", "lora_bias", "rank_pattern", "alpha_pattern")
        if foreign := [form for form in forms if vars(seen)[form]]:
            raise UserError(
                f"{KEY}: the checkpoint's adapter of {name} has {', '.join(foreign)}, which is "
                "read but not trained here; merge it first with task=export"
            )
        for key, ours in {
            "r": "r",
            "lora_alpha": "alpha",
            "lora_dropout": "dropout",
            "target_modules": "targets",
            "target_parameters": "target_parameters",
            "use_rslora": "use_rslora",
        }.items():
            if _plain(vars(seen)[key]) != _plain(vars(wanted)[key]):
                raise UserError(
                    f"{KEY}.{ours}={vars(config)[ours]!r}: the checkpoint's adapter of {name} "
                    f"has {vars(seen)[key]!r}; {advice}"
                )


def _plain(value: Any) -> Any:
    """Turn names into a set: peft has a list before injection, a set after, and None for none."""
    return {*(value or ())} if value is None or isinstance(value, list | set) else value


def config_of(part: nn.Module) -> peft.PeftConfig:
    """Return the peft config of a part's adapter."""
    configs = part.peft_config
    assert isinstance(configs, dict)
    return configs[NAME]


def _peft_config(
    name: str, part: nn.Module, suffixes: list[str], config: LoraConfig
) -> peft.LoraConfig:
    bare = [s for s in config.target_parameters if _parameters(part, [s])]
    return peft.LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=suffixes,
        target_parameters=bare or None,
        use_rslora=config.use_rslora,
        bias="none",
        task_type="CAUSAL_LM" if name == "language_model" else None,
    )


def _parameters(part: nn.Module, suffixes: Collection[str]) -> list[str]:
    """Return the names, without adapters, of the parameters that suffixes match."""
    names = (base_name(name) for name, _ in part.named_parameters() if not is_adapter(name))
    return [name for name in names if any(_matches(name, suffix) for suffix in suffixes)]


def _inject_one(part: nn.Module, config: peft.PeftConfig) -> None:
    config.inference_mode = False
    peft.inject_adapter_in_model(config, part, adapter_name=NAME)
    # adapters are in float32 whatever the part's dtype, as in peft's own get_peft_model
    cast_adapter_dtype(part, adapter_name=NAME, autocast_adapter_dtype=True)


def _state(part: nn.Module) -> dict[str, Tensor]:
    return peft.get_peft_model_state_dict(
        part, state_dict=state_of(part), adapter_name=NAME, save_embedding_layers=False
    )


def _take_out(policy: nn.Module, first: Callable[[BaseTunerLayer], None]) -> None:
    layers = [(n, m) for n, m in policy.named_modules() if isinstance(m, BaseTunerLayer)]
    for _, layer in layers:
        first(layer)
    for name, layer in layers:
        if name.endswith(f".{BASE_LAYER}"):
            continue  # one of two adapters around the same layer: the outer one is replaced
        parent = policy.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], layer.get_base_layer())
    # if the config stayed, peft and transformers would take the model for an adapted one, and
    # save_pretrained would write adapters that do not exist
    for module in policy.modules():
        vars(module).pop("peft_config", None)


def _matches(name: str, suffix: str) -> bool:
    return name == suffix or name.endswith(f".{suffix}")


def _some(names: list[str]) -> list[str]:
    """Pick at most eight names with different endings, as examples."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(name.rpartition(".")[2], name)
    return list(first.values())[:8]


def _tied_hint(parts: Mapping[str, nn.Module], suffix: str) -> str:
    modules = [m for part in parts.values() for n, m in part.named_modules() if _matches(n, suffix)]
    tied = any(isinstance(module, nn.Linear) for module in modules)
    return " that can have an adapter (a head tied to the embeddings cannot)" if tied else ""
