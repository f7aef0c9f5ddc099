"""Writes tests/golden/rl: what TRL makes of drawn log-probabilities, values, scores.

    pip install trl
    pip install --target=DIR --no-deps trl==0.11.4
    python tools/golden_rl.py DIR

The last TRL with a PPO whose parts can be called is 0.11, which no longer imports; so
functions are taken out of its files, and run as they are, in float64. The same is done
to the later TRL's, whose parts cannot be had without a trainer. ppo.npz: OpenAI 2019's
algorithm, as TRL 0.11 has it. preference.npz: DPO and its kin. groups.npz: GRPO's.
"""

import ast
import math
import pathlib
import sys
import types
import typing

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden" / "rl"
B, T, V, NUM_SAMPLES = 6, 9, 11, 3
GAMMA_LAMBDA = ((1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.99, 0.0))
KL_COEF, CLIP, VALUE_CLIP, BETA, SMOOTHING = 0.15, 0.2, 0.25, 0.3, 0.2


def lift(path: pathlib.Path, name: str, **names):
    """The function, method or class of that name in a file, without the file."""
    import torch

    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name
    )
    found.decorator_list = []
    return _run([found], torch, names)[name]


def lift_statement(path: pathlib.Path, function: str, begins: str, **names):
    """Runs the one statement of a function that begins so; returns all names."""
    import torch

    tree = ast.parse(path.read_text(encoding="utf-8"))
    outer = next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == function
    )
    for node in ast.walk(outer):
        if isinstance(node, ast.stmt) and ast.unparse(node).startswith(begins):
            return _run([node], torch, names)
    raise LookupError(begins)


def _run(nodes, torch, names):
    space = {
        "torch": torch, "F": torch.nn.functional, "np": np, "math": math,
        **{name: getattr(typing, name) for name in ("List", "Optional", "Tuple")},
    } | names  # fmt: skip
    code = compile(ast.Module(nodes, []), "trl", "exec", dont_inherit=True)
    exec(code, space)
    return space


def draw_inputs() -> dict[str, np.ndarray]:
    """Answers of several lengths, with log-probabilities before and after an update."""
    rng = np.random.default_rng(0)
    lengths = np.array([9, 1, 4, 7, 2, 5])
    logits, old_logits, ref_logits = rng.normal(size=(3, B, T, V))
    old_logits, ref_logits = (logits + 0.4 * one for one in (old_logits, ref_logits))
    return {
        "mask": (np.arange(T) < lengths[:, None]).astype(float),
        "logits": logits, "old_logits": old_logits, "ref_logits": ref_logits,
        "ids": rng.integers(V, size=(B, T)), "scores": rng.normal(size=B),
        "values": rng.normal(size=(B, T)), "vpreds": rng.normal(size=(B, T)),
    }  # fmt: skip


def make_ppo(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """The parts of PPO, in the order in which `PPOTrainer.step` calls them."""
    import torch

    core, file = folder / "trl/core.py", folder / "trl/trainer/ppo_trainer.py"
    tools = {}
    for name in (
        "masked_mean", "masked_var", "masked_whiten", "clip_by_value",
        "entropy_from_logits", "logprobs_from_logits",
    ):  # fmt: skip
        tools[name] = lift(core, name, **tools)
    tools["flatten_dict"] = lambda stats: stats
    names = ("compute_rewards", "_kl_penalty", "compute_advantages", "loss")
    methods = {name: lift(file, name, **tools) for name in names}
    x = {name: torch.tensor(array) for name, array in draw_inputs().items()}
    found = {"whitened": tools["masked_whiten"](x["values"], x["mask"])}
    found["whitened_unshifted"] = tools["masked_whiten"](x["values"], x["mask"], False)
    for name in ("logits", "old_logits", "ref_logits"):
        key = name.replace("logits", "log_probs")
        found[key] = tools["logprobs_from_logits"](x[name], x["ids"])
    config = types.SimpleNamespace(
        kl_penalty="kl", whiten_rewards=False, cliprange=CLIP, vf_coef=1.0,
        cliprange_value=VALUE_CLIP, ratio_threshold=100.0,
    )  # fmt: skip
    trainer = types.SimpleNamespace(
        config=config, kl_ctl=types.SimpleNamespace(value=KL_COEF)
    )
    trainer._kl_penalty = lambda *args: methods["_kl_penalty"](trainer, *args)
    pair = found["log_probs"], found["ref_log_probs"]
    whole = [torch.log_softmax(x[name], -1) for name in ("logits", "ref_logits")]
    for kind, both in (("mse", pair), ("full", whole), ("kl", pair)):
        config.kl_penalty = kind
        found[f"kl_{kind}"] = trainer._kl_penalty(*both)
    found |= _advantages(methods, trainer, found, x)
    found |= _losses(methods, trainer, found, x)
    return _plain({**x, **found, **_coefficients(folder)})


def _advantages(methods, trainer, found, x):
    rewards = methods["compute_rewards"](
        trainer, x["scores"], found["old_log_probs"], found["ref_log_probs"], x["mask"]
    )[0]
    made = {"rewards": rewards}
    for gamma, lam in GAMMA_LAMBDA:
        trainer.config.gamma, trainer.config.lam = gamma, lam
        for whiten in (False, True):
            trainer.config.whiten_rewards = whiten
            _, advantages, returns = methods["compute_advantages"](
                trainer, x["values"], rewards, x["mask"]
            )
            tag = f"{gamma}_{lam}_{whiten}"
            made |= {f"advantages_{tag}": advantages, f"returns_{tag}": returns}
    return made


def _losses(methods, trainer, found, x):
    log_probs, vpreds = (
        one.clone().requires_grad_() for one in (found["log_probs"], x["vpreds"])
    )
    policy, value, stats = methods["loss"](
        trainer, found["old_log_probs"], x["values"] * x["mask"], x["logits"], vpreds,
        log_probs, x["mask"], found["advantages_1.0_0.95_False"],
        found["returns_1.0_0.95_False"],
    )  # fmt: skip
    (policy + value).backward()
    return {
        "policy_loss": policy, "value_loss": value, "policy_grad": log_probs.grad,
        "value_grad": vpreds.grad, "entropy": stats["policy"]["entropy"],
        "approx_kl": stats["policy"]["approxkl"],
        "clip_fraction": stats["policy"]["clipfrac"],
        "value_clip_fraction": stats["val"]["clipfrac"],
    }  # fmt: skip


def _coefficients(folder):
    controller = lift(folder / "trl/trainer/utils.py", "AdaptiveKLController")(
        KL_COEF, 6.0, 10_000
    )
    kls, coefs = np.array([0.0, 3.0, 5.9, 6.5, 7.5, 30.0, 6.0]), []
    for kl in kls:
        controller.update(kl, 512)
        coefs.append(controller.value)
    return {"kls": kls, "coefs": np.array(coefs)}


def make_preference(folder: pathlib.Path, trl: pathlib.Path) -> dict[str, np.ndarray]:
    """Pair losses: of both TRLs where both have one."""
    import torch

    rng = np.random.default_rng(1)
    parts = rng.normal(scale=4, size=(4, B))
    chosen, rejected, ref_chosen, ref_rejected = map(torch.tensor, parts)
    lengths = torch.tensor(rng.integers(1, 9, size=(2, B)).astype(float))
    found = {"parts": parts, "lengths": lengths}
    old = lift(
        folder / "trl/trainer/dpo_trainer.py", "dpo_loss",
        FDivergenceType=lift(
            folder / "trl/trainer/dpo_config.py", "FDivergenceType",
            Enum=__import__("enum").Enum,
        ),
    )  # fmt: skip
    for kind in ("sigmoid", "robust", "hinge", "ipo"):
        trainer = types.SimpleNamespace(
            beta=BETA, label_smoothing=SMOOTHING, loss_type=kind,
            reference_free=False, f_divergence_type="reverse_kl",
            f_divergence_params=None, accelerator=types.SimpleNamespace(device="cpu"),
        )  # fmt: skip
        scale = lengths if kind == "ipo" else torch.ones_like(lengths)
        found[f"{kind}_0.11"] = old(
            trainer, chosen / scale[0], rejected / scale[1], ref_chosen / scale[0],
            ref_rejected / scale[1],
        )[0]  # fmt: skip
        trainer = types.SimpleNamespace(
            beta=BETA, label_smoothing=SMOOTHING, loss_types=[kind], loss_weights=[1.0],
            use_weighting=False,
        )  # fmt: skip
        masks = (torch.arange(9)[None] < lengths.reshape(-1, 1)).to(torch.int64)
        scores = [chosen - ref_chosen, rejected - ref_rejected]
        found[f"{kind}_1"] = lift_statement(
            trl / "trainer/dpo_trainer.py", "_compute_loss", "for loss_type",
            self=trainer, loss=0.0, delta_score=scores[0] - scores[1],
            chosen_scores=scores[0], rejected_scores=scores[1], completion_mask=masks,
        )["per_sequence_loss"]  # fmt: skip
    kto = lift(folder / "trl/trainer/kto_trainer.py", "kto_loss")
    trainer = types.SimpleNamespace(
        beta=BETA, calculate_KL=True, loss_type="kto", desirable_weight=1.0,
        undesirable_weight=1.0, accelerator=types.SimpleNamespace(gather=lambda x: x),
    )  # fmt: skip
    ahead, behind = torch.cat([chosen, rejected]), torch.cat([ref_chosen, ref_rejected])
    found["kto"], *_, found["kto_level"] = kto(
        trainer, chosen, rejected, ahead, ref_chosen, ref_rejected, behind
    )
    return _plain(found)


def make_groups(trl: pathlib.Path) -> dict[str, np.ndarray]:
    """Advantages and losses of GRPO, Dr. GRPO, DAPO and RLOO, with their gradients."""
    import torch

    inputs = draw_inputs()
    x = {name: torch.tensor(array) for name, array in inputs.items()}
    found = {}
    for name in ("logits", "old_logits", "ref_logits"):
        log_probs = torch.log_softmax(x[name], -1)
        key = name.replace("logits", "log_probs")
        found[key] = log_probs.gather(2, x["ids"][..., None])[..., 0]
    for scale in ("group", "none"):
        found[f"advantages_{scale}"] = lift_statement(
            trl / "trainer/grpo_trainer.py", "_generate_and_score_completions",
            "if self.multi_objective_aggregation",
            self=types.SimpleNamespace(
                multi_objective_aggregation="sum_then_normalize", scale_rewards=scale,
                reward_weights=torch.ones(1, dtype=torch.float64),
            ),
            rewards_per_func=x["scores"][:, None], device="cpu",
            num_generations=NUM_SAMPLES, nanstd=_nanstd,
            unscorable_mask=torch.zeros(B, dtype=torch.bool),
        )["advantages"]  # fmt: skip
    found["advantages_rloo"] = lift_statement(
        trl / "trainer/rloo_trainer.py", "_generate_and_score_completions",
        "if num_generations > 1:\n    baselines",
        num_generations=NUM_SAMPLES, rewards=x["scores"],
        grouped_rewards=x["scores"].reshape(-1, NUM_SAMPLES),
        grouped_sum=x["scores"].reshape(-1, NUM_SAMPLES).sum(1, keepdim=True),
        scorable_counts=torch.full((B // NUM_SAMPLES, 1), NUM_SAMPLES),
    )["advantages"]  # fmt: skip
    for kind, advantages, high, beta in (
        ("grpo", "group", 0.2, 0.04), ("dr_grpo", "none", 0.2, 0.0),
        ("dapo", "group", 0.28, 0.0),
    ):  # fmt: skip
        log_probs = found["log_probs"].clone().requires_grad_()
        loss = _grpo_loss(
            trl, kind, log_probs, found, x, found[f"advantages_{advantages}"], high,
            beta,
        )  # fmt: skip
        loss.backward()
        found |= {f"{kind}_loss": loss, f"{kind}_grad": log_probs.grad}
    log_probs = found["log_probs"].clone().requires_grad_()
    loss = _rloo_loss(trl, ((log_probs - found["old_log_probs"]) * x["mask"]).sum(1),
                      found["advantages_rloo"])  # fmt: skip
    loss.backward()
    found |= {"rloo_loss": loss, "rloo_grad": log_probs.grad}
    return _plain({**x, **found})


def _rloo_loss(trl, log_ratio, advantages):
    """The statements of `RLOOTrainer._compute_loss`, one after the other."""
    names = {"log_ratio": log_ratio, "advantages": advantages}
    names["self"] = types.SimpleNamespace(epsilon_low=0.2, epsilon_high=0.2)
    for begins in (
        "coef_1 =", "coef_2 =", "per_sequence_loss1", "per_sequence_loss2",
        "per_sequence_loss =", "loss = per_sequence",
    ):  # fmt: skip
        names |= lift_statement(
            trl / "trainer/rloo_trainer.py", "_compute_loss", begins, **names
        )
    return names["loss"]


def _grpo_loss(trl, kind, log_probs, found, x, advantages, high, beta):
    """`GRPOTrainer._compute_loss`, of a trainer that only has what it reads."""
    import collections

    import torch

    accelerator = types.SimpleNamespace(
        num_processes=1, gather=lambda one: one, reduce=lambda one, reduction: one
    )
    args = types.SimpleNamespace(delta=None, use_bias_correction_kl=False)
    trainer = types.SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (
            log_probs, torch.zeros_like(log_probs), None),
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, loss_type=kind,
        importance_sampling_level="token", beta=beta, epsilon_low=0.2,
        epsilon_high=high, args=args, use_vllm=False, accelerator=accelerator,
        model=types.SimpleNamespace(training=True), max_completion_length=T,
        current_gradient_accumulation_steps=1, _entropy_bonus_enabled=False,
        aux_loss_enabled=False, vllm_importance_sampling_correction=False,
        _metrics={"train": collections.defaultdict(list)},
    )  # fmt: skip
    trainer.args.steps_per_generation = 1
    ids = torch.zeros(B, T, dtype=torch.int64)
    inputs = {
        "prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1], "completion_ids": ids,
        "completion_mask": x["mask"], "advantages": advantages,
        "old_per_token_logps": found["old_log_probs"],
        "ref_per_token_logps": found["ref_log_probs"],
        "num_items_in_batch": x["mask"].sum(),
    }  # fmt: skip
    file = trl / "trainer/grpo_trainer.py"
    method = lift(file, "_compute_loss", nanmin=torch.min, nanmax=torch.max)
    return method(trainer, None, inputs)


def _nanstd(values, dim=None):
    """As in TRL: over n - 1. Nothing is NaN here."""
    return values.std() if dim is None else values.std(dim=dim)


def _plain(found: dict) -> dict[str, np.ndarray]:
    return {name: np.asarray(getattr(one, "detach", lambda o=one: o)())
            for name, one in found.items()}  # fmt: skip


def main() -> None:
    import trl

    folder, latest = pathlib.Path(sys.argv[1]), pathlib.Path(trl.__file__).parent
    GOLDEN.mkdir(parents=True, exist_ok=True)
    np.savez(GOLDEN / "ppo.npz", **make_ppo(folder))
    np.savez(GOLDEN / "preference.npz", **make_preference(folder, latest))
    np.savez(GOLDEN / "groups.npz", **make_groups(latest))


if __name__ == "__main__":
    main()
