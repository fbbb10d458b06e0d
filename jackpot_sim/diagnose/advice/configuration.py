"""The lines to paste into the configuration of a framework for a correction, or the reason why there are none.

The option names are those of the versions in `VERSIONS`, in which their code was read. A rule that a framework has
under another meaning is told apart: verl's bounds on k1 act on 1/r, and its masks leave the count of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from jackpot_sim.estimators import Aggregate, Correction

VERSIONS = {
    "verl": "0.9.1",
    "trl": "1.16.0",
    "slime": "624b824",
    "miles": "31f1ca9",
    "prime-rl": "September 2026",
    "nemo-rl": "7ea279a",
    "skyrl": "0.4.0",
    "openrlhf": "0.11.2",
}
"""The version of each framework whose options these are."""

Lines: TypeAlias = Callable[[Mapping[str, object]], str]


def configuration(correction: Correction) -> dict[str, str]:
    """The lines for each framework, by its name; a comment where it cannot express the correction."""
    name, parameters = correction.name, _digits(correction.parameters())
    return {framework: _lines(framework, name, parameters) for framework in VERSIONS}


def expressed(lines: str) -> bool:
    """True where there is anything to paste."""
    return any(line and not line.startswith("#") for line in lines.splitlines())


def _lines(framework: str, name: str, parameters: Mapping[str, object]) -> str:
    made = _ALL[framework].get(name)
    if made is None:
        return f"# {framework} {VERSIONS[framework]} has no option for {name}: {_OWN[framework]}"
    lines = made(parameters)
    return lines or f"# {framework} {VERSIONS[framework]} has no option for these parameters: {_OWN[framework]}"


def _digits(parameters: Mapping[str, object]) -> dict[str, object]:
    """Parameters as they are pasted, numbers in six digits."""
    return {
        name: f"{value:.6g}" if isinstance(value, float | int) and not isinstance(value, bool) else value
        for name, value in parameters.items()
    }


_OWN = {
    "verl": "register a policy loss in the entry-point group verl.plugins",
    "trl": "override _generate_and_score_completions and set importance_sampling_ratio",
    "slime": "write a function for --custom-tis-function-path",
    "miles": "write a function for --custom-tis-function-path",
    "prime-rl": 'write a loss for [trainer.loss] type = "custom"',
    "nemo-rl": "write a LossFunction, as there is no registry",
    "skyrl": "register a policy loss",
    "openrlhf": "change PolicyLoss.forward, as there is no registry",
}
"""The way to a correction that a framework has no option for."""


def _plain(parameters: Mapping[str, object], *names: str) -> bool:
    """True where parameters that a framework does not have are at values without effect."""
    without = {"floor": "0", "c2": None, "inverted": False, "low": "0"}
    return all(parameters.get(name) in (without[name], None) for name in names)


def _verl_is(level: str, threshold: str) -> str:
    return (
        f"algorithm.rollout_correction.rollout_is={level}\n"
        f"algorithm.rollout_correction.rollout_is_threshold={threshold}\n"
        "algorithm.rollout_correction.rollout_rs=null"
    )


def _verl_band(level: str, p: Mapping[str, object]) -> str:
    return "" if _plain(p, "low") else _verl_is(level, _pair(p["low"], p["high"]))


def _pair(low: object, high: object) -> str:
    """Two bounds as verl writes them, with a point in each: Hydra reads 0.2_5 as 0.25."""
    told = (f"{float(str(each)):.9f}".rstrip("0") for each in (low, high))
    return "_".join(f"{each}0" if each.endswith(".") else each for each in told)


def _verl_rs(mode: str, threshold: object) -> str:
    return (
        "algorithm.rollout_correction.rollout_is=null\n"
        f"algorithm.rollout_correction.rollout_rs={mode}\n"
        f"algorithm.rollout_correction.rollout_rs_threshold={threshold}"
    )


def _verl_k1(mode: str) -> Lines:
    """Bounds on k1 = −log r: low and high change places, and become their reciprocals."""

    def lines(p: Mapping[str, object]) -> str:
        low, high = float(str(p["low"])), float(str(p["high"]))
        if p.get("inverted"):
            return _verl_rs(mode, _pair(low, high)) if low > 0 else ""
        return _verl_rs(mode, _pair(1 / high, 1 / low)) if low > 0 else ""

    return lines


def _verl_statistic(p: Mapping[str, object], statistic: str) -> str:
    how = Aggregate(str(p["aggregate"]))
    return _verl_rs(f"seq_{how}_{statistic}", p["bound"])


_VERL: dict[str, Lines] = {
    "tis": lambda p: _verl_is("token", f"{p['clip']}") if _plain(p, "floor") else "",
    "sequence-tis": lambda p: _verl_is("sequence", f"{p['clip']}") if _plain(p, "floor") else "",
    "mis": lambda p: _verl_band("token", p),
    "sequence-mis": lambda p: _verl_band("sequence", p),
    "mask-k1": _verl_k1("token_k1"),
    "mask-k2": lambda p: _verl_rs("token_k2", p["bound"]),
    "mask-k3": lambda p: _verl_rs("token_k3", p["bound"]),
    "sequence-mask-k1": lambda p: _verl_k1(f"seq_{Aggregate(str(p['aggregate']))}_k1")(p),
    "sequence-mask-k2": lambda p: _verl_statistic(p, "k2"),
    "sequence-mask-k3": lambda p: _verl_statistic(p, "k3"),
}


def _trl(mode: str, high: object, low: object = None) -> str:
    least = "" if low in (None, "0") else f"\nvllm_importance_sampling_clip_min={low},"
    return (
        f'vllm_importance_sampling_correction=True,\nvllm_importance_sampling_mode="{mode}",\n'
        f"vllm_importance_sampling_clip_max={high},{least}"
    )


_TRL: dict[str, Lines] = {
    "tis": lambda p: _trl("token_truncate", p["clip"], p["floor"]),
    "sequence-tis": lambda p: _trl("sequence_truncate", p["clip"], p["floor"]),
    "mis": lambda p: _trl("token_mask", p["high"], p["low"]),
    "sequence-mis": lambda p: _trl("sequence_mask", p["high"], p["low"]),
}


def _megatron(band: str) -> dict[str, Lines]:
    """The flags of slime and miles, where a function has the band."""
    return {
        "tis": lambda p: f"--use-tis --tis-clip {p['clip']} --tis-clip-low {p['floor']}",
        "mis": lambda p: (
            f"--use-tis --tis-clip {p['high']} --tis-clip-low {p['low']} \\\n  --custom-tis-function-path {band}"
        ),
    }


def _nemo(kind: str, high: object, low: object = None) -> str:
    least = "" if low is None else f"\n  truncated_importance_sampling_ratio_min: {low}"
    return (
        "loss_fn:\n  use_importance_sampling_correction: true\n"
        f"  truncated_importance_sampling_type: {kind}\n  truncated_importance_sampling_ratio: {high}{least}"
    )


_NEMO: dict[str, Lines] = {
    "tis": lambda p: _nemo("tis", p["clip"]) if _plain(p, "floor") else "",
    "mis": lambda p: _nemo("icepop", p["high"], p["low"]),
    "geometric-band-is": lambda p: _nemo("seq-mask-tis", p["high"], p["low"]),
    "sequence-mask-error": lambda p: f"grpo:\n  seq_logprob_error_threshold: {p['bound']}",
}

_SKYRL_AT = "trainer.algorithm.off_policy_correction"


def _skyrl_sequence_mask(p: Mapping[str, object]) -> str:
    metric, prefix = ("geometric", "geo") if p["aggregate"] == Aggregate.MEAN else ("product", "product")
    if p.get("inverted"):
        return ""
    bounds = "\n".join(f"{_SKYRL_AT}.{prefix}_mask_{end}={p[end]}" for end in ("low", "high"))
    return f"{_SKYRL_AT}.sequence_mask_metric={metric}\n{bounds}"


_SKYRL: dict[str, Lines] = {
    "tis": lambda p: (
        f"{_SKYRL_AT}.tis_ratio_type=token\n{_SKYRL_AT}.token_tis_ratio_clip_high={p['clip']}"
        if _plain(p, "floor")
        else ""
    ),
    "sequence-tis": lambda p: (
        f"{_SKYRL_AT}.tis_ratio_type=sequence\n{_SKYRL_AT}.sequence_tis_ratio_clip_high={p['clip']}"
        if _plain(p, "floor")
        else ""
    ),
    "mis": lambda p: f"{_SKYRL['tis']({'clip': p['high']})}\n{_skyrl_band(p)}",
    "mask-k1": lambda p: "" if p.get("inverted") else _skyrl_band(p),
    "sequence-mask-k1": _skyrl_sequence_mask,
    "veto": lambda p: f"{_SKYRL_AT}.outlier_token_is_threshold_low={p['threshold']}",
    "dppo-tv": lambda p: _skyrl_dppo("binary_tv", p["delta"]),
    "dppo-kl": lambda p: _skyrl_dppo("binary_kl", p["delta"]),
}


def _skyrl_band(p: Mapping[str, object]) -> str:
    return "\n".join(f"{_SKYRL_AT}.token_mask_is_threshold_{end}={p[end]}" for end in ("low", "high"))


def _skyrl_dppo(kind: str, delta: object) -> str:
    at = "trainer.algorithm"
    bounds = "\n".join(f"{at}.dppo.delta_{end}={delta}" for end in ("low", "high"))
    return f"{at}.policy_loss_type=dppo\n{at}.dppo.dppo_type={kind}\n{bounds}"


def _openrlhf(level: str, mode: str, gating: str, *threshold: object) -> str:
    at = "--algo.advantage.is_correction"
    return (
        f"{at}_level {level} {at}_mode {mode} \\\n  {at}_gating {gating} {at}_threshold {' '.join(map(str, threshold))}"
    )


_OPENRLHF: dict[str, Lines] = {
    "tis": lambda p: _openrlhf("token", "clip", "ratio", p["floor"], p["clip"]),
    "mis": lambda p: _openrlhf("token", "mask", "ratio", p["low"], p["high"]),
    "tv-mask": lambda p: _openrlhf("token", "mask", "tv", p["epsilon"]),
    "binary-kl-mask": lambda p: (
        _openrlhf("token", "mask", "binary_kl", p["bound"]) if p["direction"] == "actor-policy" else ""
    ),
    "geometric-band-is": lambda p: _openrlhf("seq", "mask", "ratio", p["low"], p["high"]),
}

_PRIME: dict[str, Lines] = {
    "tv-mask": lambda p: f'[trainer.loss]\ntype = "ipo"\neps = {p["epsilon"]}\nkl_tau = 0.0',
    "mis": lambda p: f'[trainer.loss]\ntype = "icepop"\nratio_low = {p["low"]}\nratio_high = {p["high"]}',
}

_ALL: dict[str, dict[str, Lines]] = {
    "verl": _VERL,
    "trl": _TRL,
    "slime": _megatron("slime.backends.megatron_utils.loss.icepop_function"),
    "miles": _megatron("miles.backends.training_utils.loss_hub.corrections.icepop_function"),
    "prime-rl": _PRIME,
    "nemo-rl": _NEMO,
    "skyrl": _SKYRL,
    "openrlhf": _OPENRLHF,
}
"""The lines of each correction by framework; of a correction that is not there it has none."""
