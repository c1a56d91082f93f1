"""The judge against a real vLLM server: the tiny model, whose output the request constrains."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from transformers import AutoTokenizer

from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from protocol.rollout import Completion, Group, StopReason
from reward.actor import RewardActor
from reward.judge_settings import JudgeSettings
from reward.settings import RewardSettings

START_SECONDS = 300


@pytest.fixture(scope="module")
def server(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of `vllm serve` on the tiny model."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "log.txt"
    command = [
        # `vllm serve` asks for the version of a distribution called vllm; the CPU's has another name.
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(tiny_folder), "--served-model-name", "tiny"),
        *("--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "256"),
        *("--max-num-seqs", "8", "--enforce-eager", "--limit-mm-per-prompt", '{"audio": 0}'),
    ]
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200:
                    break
            except httpx.RequestError:
                pass
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        # Asked to, it gives its shared memory back; killed, it leaves 400 MB in /dev/shm.
        process.terminate()
        try:
            process.wait(timeout=60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=30)


def group(*texts: str) -> Group:
    question = Question("d", 0, "q", "/clip.wav", "What is heard?", ("a dog", "a cat"), "a dog")
    completions = tuple(Completion((1,), (-0.1,), text, StopReason.STOP) for text in texts)
    return Group(question, PromptTemplate.THINK, (1, 2), completions, weight_version=0, worker="w")


def actor(url: str, **judge: object) -> RewardActor:
    settings = JudgeSettings.model_validate(
        {"url": url, "model": "tiny", "prompt": "Rate: {completion}", "max_tokens": 1, "max_attempts": 2, **judge}
    )
    return RewardActor(RewardSettings(functions={"accuracy": 1.0, "judge": 1.0}, judge=settings), max_tokens=100)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_real_server_rates_completions_and_its_nonsense_masks_them(server: str, tiny_folder: Path) -> None:
    vocabulary = AutoTokenizer.from_pretrained(tiny_folder).get_vocab()
    digits = {"allowed_token_ids": [vocabulary[str(digit)] for digit in range(10)]}
    texts = [f"<think>a dog {i}</think><answer>a dog</answer>" for i in range(12)]
    (scores,) = actor(server, extra_body=digits).score([group(*texts)])
    assert all(score.valid and score.rewards["judge"] in {i / 10 for i in range(10)} for score in scores)

    words = {"allowed_token_ids": [vocabulary["<answer>"]]}
    (scores,) = actor(server, extra_body=words).score([group(*texts)])
    assert all(not score.valid and "holds no score from 0 to 10" in str(score.error) for score in scores)

    (scores,) = actor(server, model="another").score([group(*texts[:2])])
    assert [score.error for score in scores] == ["judge: the judge answered HTTP 404 (attempt 1 of 2)"] * 2
