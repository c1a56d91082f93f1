"""TRL's GRPO trainer, which takes a step on given completions on request. Runs in TRL's environment.

Invariant: a step runs only code of TRL and transformers: advantages, the reference's log-probabilities, the loss,
backward, clipping, AdamW. Two inputs are provided: the completions, by its `rollout_func`, and the audio (see
`benchmarks.peers.trl_audio`).

The first request is the workload from `benchmarks.learner_vs_trl.described`. Each further one is `{"do": "step"}`, or
`{"do": "save", "path": …}`, which writes the parameters.
"""

import resource
import time
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset
from safetensors.torch import save_file
from transformers import AutoProcessor, PrinterCallback, Qwen2AudioForConditionalGeneration, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks.peers.process import Requests
from benchmarks.peers.trl_audio import Clips


class RecordingTrainer(GRPOTrainer):  # type: ignore[misc]  # TRL is untyped here
    """TRL's trainer, which also records its log-probabilities and loss. It computes nothing else."""

    def reset(self) -> None:
        """Discard the records."""
        self.reference_seconds = 0.0
        self.batch_loss = 0.0
        self.logprobs: dict[tuple[int, ...], list[float]] = {}
        """Log-probabilities under the policy, by a completion's token ids."""

    def _get_per_token_logps_and_entropies(self, model: Any, input_ids: Any, *args: Any, **options: Any) -> Any:
        started = time.perf_counter()
        scored = super()._get_per_token_logps_and_entropies(model, input_ids, *args, **options)
        if model is self.ref_model:
            self.reference_seconds += time.perf_counter() - started
        else:
            logprobs = scored[0].detach()
            for completion, row in zip(input_ids[:, -logprobs.shape[1] :].tolist(), logprobs.tolist(), strict=True):
                self.logprobs[tuple(completion)] = row
        return scored

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        loss = super()._compute_loss(model, inputs)
        self.batch_loss += float(loss.detach())
        return loss


class StepOnRequest(TrainerCallback):  # type: ignore[misc]  # and so is transformers
    """A callback that delays each step until it is requested, and replies after it is complete and logged."""

    def __init__(self, requests: Requests, trainer: RecordingTrainer, clips: Clips, work: dict[str, Any]) -> None:
        self._requests, self._trainer, self._clips = requests, trainer, clips
        self._order = [tuple(c) for q in work["questions"] for c in q["completions"]]

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        while (request := self._requests.next())["do"] == "save":
            parameters = self._trainer.model.named_parameters()
            save_file({name: p.detach().clone() for name, p in parameters}, request["path"])
            self._requests.reply({})
        self._trainer.reset()
        self._clips.reset()
        self._started = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._seconds = time.perf_counter() - self._started

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        trainer = self._trainer
        reply = {
            "seconds": self._seconds,
            "reference_seconds": trainer.reference_seconds,
            "loss": trainer.batch_loss,
            "grad_norm": logs["grad_norm"],
            "logprobs": [trainer.logprobs[completion] for completion in self._order],
            "clips_encoded": self._clips.encoded,
            "audio_embeddings": self._clips.embeddings,
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
        self._requests.reply(reply)


def configuration(work: dict[str, Any]) -> dict[str, Any]:
    """Return TRL's settings: the paper's algorithm, and the fastest options for this workload on a CPU."""
    completions = [c for q in work["questions"] for c in q["completions"]]
    return {
        "per_device_train_batch_size": work["batch_size"],
        "gradient_accumulation_steps": len(completions) // work["batch_size"],
        "num_generations": len(work["questions"][0]["completions"]),
        "max_completion_length": len(completions[0]),
        "temperature": 1.0,
        "beta": work["beta"],
        "loss_type": "grpo",
        "scale_rewards": "group",
        # By default the KL estimate is multiplied by the ratio. On-policy this changes the gradient only.
        "use_bias_correction_kl": False,
        "optim": "adamw_torch_fused",
        "learning_rate": work["learning_rate"],
        "lr_scheduler_type": "constant",
        "adam_epsilon": work["adam_epsilon"],
        "weight_decay": 0.0,
        "max_grad_norm": work["max_grad_norm"],
        "gradient_checkpointing": False,
        "use_cpu": True,
        "bf16": False,
        "shuffle_dataset": False,
    }


def make_trainer(work: dict[str, Any], settings: dict[str, Any], tokenizer: Any) -> RecordingTrainer:
    """Create a trainer on the workload's checkpoint, with its completions and rewards."""
    model = Qwen2AudioForConditionalGeneration.from_pretrained(work["model"], dtype=torch.float32)
    # Sinusoidal positions: transformers freezes them when it builds a model, but not when it loads one.
    model.model.audio_tower.embed_positions.requires_grad_(False)
    by_prompt = {q["prompt"]: q for q in work["questions"]}
    rewards = {tuple(c): r for q in by_prompt.values() for c, r in zip(q["completions"], q["rewards"], strict=True)}

    def rollout(prompts: list[str], _: Any) -> dict[str, Any]:
        completions = {prompt: iter(q["completions"]) for prompt, q in by_prompt.items()}
        return {
            "prompt_ids": [by_prompt[prompt]["prompt_token_ids"] for prompt in prompts],
            "completion_ids": [next(completions[prompt]) for prompt in prompts],
            "logprobs": None,
        }

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [rewards[tuple(completion)] for completion in completion_ids]

    arguments = GRPOConfig(
        output_dir=work["scratch"],
        max_steps=work["steps"],
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **settings,
    )
    # With a processor, TRL requires an image token. The tokenizer is enough, because prompts are token ids.
    trainer = RecordingTrainer(
        model,
        reward,
        arguments,
        Dataset.from_dict({"prompt": list(by_prompt)}),
        processing_class=tokenizer,
        rollout_func=rollout,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.reset()
    return trainer


def silence_difference(trainer: RecordingTrainer, clips: Clips, work: dict[str, Any]) -> float:
    """Return the largest change of a log-probability under the policy when silence replaces the clips."""
    largest = 0.0
    for question in work["questions"]:
        completion = question["completions"][0]
        ids = torch.tensor([question["prompt_token_ids"] + completion])
        scored = []
        for clips.silence in (True, False):
            with torch.no_grad():
                scores = trainer._get_per_token_logps_and_entropies(
                    trainer.model, ids, torch.ones_like(ids), len(completion)
                )
            scored.append(scores[0])
        largest = max(largest, float((scored[0] - scored[1]).abs().max()))
    return largest


def main() -> None:
    requests = Requests()
    work = requests.next()
    torch.set_num_threads(work["threads"])
    settings = configuration(work)
    processor = AutoProcessor.from_pretrained(work["model"])
    trainer = make_trainer(work, settings, processor.tokenizer)
    clips = Clips(processor, work["questions"], settings["max_completion_length"])
    clips.attach_to(trainer.model, "policy")
    clips.attach_to(trainer.ref_model, "reference")
    requests.reply(
        {
            "versions": {module.__name__: module.__version__ for module in (trl, transformers, torch)},
            "configuration": settings,
            "threads": torch.get_num_threads(),
            "dtypes": sorted({str(p.dtype) for m in (trainer.model, trainer.ref_model) for p in m.parameters()}),
            "silence_difference": silence_difference(trainer, clips, work),
        }
    )
    trainer.add_callback(StepOnRequest(requests, trainer, clips, work))
    trainer.train()


if __name__ == "__main__":
    main()
