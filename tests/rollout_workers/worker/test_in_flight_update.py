"""Weight updates of engines with requests in flight."""

import asyncio
import copy

import numpy as np
import pytest
import torch

from protocol.rollout import Group, Sampling

TOLERANCE = 1e-4
SAMPLING = Sampling(group_size=4, max_tokens=120)


@pytest.fixture
def changed(tiny):
    """The same model with every parameter changed, the audio tower's included."""
    other = copy.copy(tiny)
    other.model = copy.deepcopy(tiny.model)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return other


async def updated_in_the_middle(pool, requests, offer, delay):
    """Return the groups of requests that were sent `delay` seconds before an update."""
    # The engines' caches have all clips and prompts already.
    await pool.generate(requests, Sampling(group_size=1, max_tokens=1))
    futures = [pool.submit(request, SAMPLING) for request in requests]
    await asyncio.sleep(delay)
    await offer
    return await asyncio.gather(*futures)


def mixed_completions(groups, requests, models) -> int:
    """Return the number of completions with tokens of two versions, after comparing each token with its version."""
    mixed = 0
    for group, request in zip(groups, requests, strict=True):
        assert isinstance(group, Group)
        assert group.question == request.question
        assert group.weight_version == min(version for c in group.completions for version, _ in c.versions)
        for completion in group.completions:
            assert sum(tokens for _, tokens in completion.versions) == len(completion.token_ids)
            assert [version for version, _ in completion.versions] == sorted({v for v, _ in completion.versions})
            mixed += len(completion.versions) == 2
            parts, start = [], 0
            for version, tokens in completion.versions:
                parts.append(models[version].logprobs(group, completion, 1.0)[start : start + tokens])
                start += tokens
            assert np.abs(np.array(completion.logprobs) - torch.cat(parts).numpy()).max() < TOLERANCE
    return mixed


def test_tokens_carry_the_weights_they_were_sampled_with(
    pool, publisher, run, requests, tiny, changed, canonical_state
):
    """The log-probabilities of both parts are those of the versions that they name, the audio tower's included."""
    now, new = tiny, changed
    # An engine's speed depends on the machine: the update is sent later each time, until it meets some requests.
    for delay in (0.05, 0.1, 0.2, 0.4, 0.8, 1.6):
        models = {publisher.version: now, publisher.version + 1: new}
        offer = publisher.offer(canonical_state(new.model), audio_changed=True)
        groups = run(updated_in_the_middle(pool, requests, offer, delay))
        if mixed_completions(groups, requests, models) >= 8:
            return
        now, new = new, now
    pytest.fail("no update met completions in the middle")


def test_a_cancelled_request_leaves_the_engine(pool, run, requests):
    async def cancelled():
        futures = [pool.submit(request, SAMPLING) for request in requests]
        await asyncio.sleep(0.05)
        for future in futures:
            future.cancel()
        handles = [member.handle for member in pool._workers.serving]
        async with asyncio.timeout(10):
            while any([(await handle.heartbeat()).sequences for handle in handles]):
                await asyncio.sleep(0.05)

    run(cancelled())
    answers = run(pool.generate(requests, Sampling(group_size=4, max_tokens=8)))
    assert all(isinstance(answer, Group) for answer in answers)
