"""Random faults, scaling and updates at once: no question is lost or answered twice."""

import asyncio
import random
from collections import Counter

import pytest
from support.pool import LIMITS, SAMPLING, Fleet, check, played, requests, weights

pytestmark = pytest.mark.usefixtures("fast_restarts")


@pytest.mark.parametrize("seed", range(3))
def test_in_a_storm_every_question_is_answered_exactly_once(seed):
    """Workers die, hang, join, leave and take new weights at random while questions are asked."""

    @played
    async def storm():
        rng = random.Random(seed)
        fleet = Fleet(LIMITS.model_copy(update={"attempts": 1000, "drain_seconds": 0.02, "silent_seconds": 0.2}))
        pool = fleet.pool
        await pool.start(3)
        asked = requests(600)
        answered = Counter()
        futures = []
        version = 0
        for request in asked:
            future = pool.submit(request, SAMPLING)
            future.add_done_callback(lambda f: answered.update([f.result().question.index]))
            futures.append(future)
            chance = rng.random()
            if chance < 0.03:
                fleet.handle(rng.choice(list(fleet.handles))).crash()
            elif chance < 0.05:
                fleet.handle(rng.choice(list(fleet.handles))).freeze()
            elif chance < 0.10:
                pool.scale(rng.randrange(5), "at random")
            elif chance < 0.14:
                version += 1
                await pool.update(weights(version))
            elif chance < 0.5:
                await asyncio.sleep(0.002)
        pool.scale(3, "the end")
        answers = await asyncio.gather(*futures)
        check(answers, asked)
        assert answered == Counter(dict.fromkeys(range(len(asked)), 1))
        assert (pool.in_flight, pool.waiting) == (0, 0)
        await pool.wait_until_serving(3)
        assert {view.weight_version for view in pool.workers() if view.state == "serving"} == {version}
        return fleet

    storm()
