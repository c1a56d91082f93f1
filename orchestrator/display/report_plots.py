"""The plots of a report: metrics over learner steps, and accuracy by kind of question."""

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from orchestrator.display.notation import percent
from orchestrator.display.plot import Bar, Series, category_plot, line_plot, stacked_plot
from orchestrator.display.record import Record, number_in, share_in


def learning_plots(metrics: Sequence[Record], evaluations: Sequence[tuple[int, Record]]) -> Iterator[Markup]:
    """Yield the plots over learner steps."""

    def lines(**names: str) -> list[Series]:
        named = [(label.replace("_", " "), name) for label, name in names.items()]
        return [Series(label, [(m["step"], number_in(m, name)) for m in metrics]) for label, name in named]

    def evaluated(label: str, key: str, dashed: bool = False) -> Series:
        return Series(label, [(step, number_in(result, key)) for step, result in evaluations], dashed)

    shuffled = any(number_in(result, "shuffled_accuracy") is not None for _, result in evaluations)
    yield line_plot("Reward", lines(mean="reward/mean", accuracy="reward/accuracy", format="reward/format"))
    yield line_plot(
        "Accuracy on held-out questions",
        [
            evaluated("audio", "accuracy"),
            evaluated("silence", "silence_accuracy"),
            evaluated("chance", "chance_accuracy", dashed=True),
            *([evaluated("other clips", "shuffled_accuracy")] if shuffled else []),
        ],
        lambda value: f"{value:.0%}" if value == round(value, 2) else percent(value),
        from_zero=True,
    )
    yield line_plot(
        "KL to the reference model",
        lines(KL="kl/ref"),
        unit="nats per token",
        if_none="There is no reference where learner.beta is 0.",
    )
    yield line_plot("Entropy", lines(entropy="entropy"), unit="nats per token")
    yield line_plot("Loss", lines(policy="loss/policy", KL="loss/kl"))
    yield line_plot("Completion length", lines(mean_length="completion/length_mean"), unit="tokens")
    yield line_plot(
        "Completions truncated at the length limit, and ratios clipped",
        lines(truncated="completion/truncated_fraction", clipped="ratio/clipped_fraction"),
        lambda value: f"{100 * value:.3g}%",
        from_zero=True,
    )
    yield stacked_plot(
        "Time per step by phase",
        lines(generate="time/generate", reward="time/reward", learn="time/learn", sync="time/sync"),
        unit="seconds",
    )
    yield line_plot(
        "Throughput",
        lines(generated="tokens/generated_per_second", trained="tokens/trained_per_second"),
        unit="tokens per second",
    )
    yield stacked_plot(
        "Outcome of the questions",
        lines(
            trained="groups/trained", zero_variance="groups/zero_variance", stale="groups/stale", failed="groups/failed"
        ),
        unit="groups",
    )
    yield line_plot("Rollout workers alive", lines(workers="workers/alive"), from_zero=True)
    yield line_plot("Staleness", lines(mean="staleness/mean", highest="staleness/max"), unit="weight versions")


def category_plots(evaluation: Record) -> Iterator[Markup]:
    """Yield the accuracy of one evaluation by each kind of category that it knows."""
    for title, key, always in (
        ("By category", "by_category", True),
        ("By task", "by_task", True),
        ("By difficulty", "by_difficulty", False),
        ("By sub-category", "by_sub_category", False),
    ):
        parts = evaluation.get(key) or {}
        if not parts and not always:
            continue
        bars = [
            Bar(
                name,
                share_in(part, "accuracy"),
                share_in(part, "silence_accuracy"),
                share_in(part, "chance_accuracy"),
                int(number_in(part, "count") or 0),
            )
            for name, part in sorted(parts.items())
        ]
        yield category_plot(title, bars)
