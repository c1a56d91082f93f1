"""Fetch the bytes of an update from Ray's object store."""

import numpy as np
import ray
from ray.exceptions import RayError

from protocol.weights import WeightUpdate
from rollout_workers.engine.segment import Arrays
from rollout_workers.errors import WeightsUnavailableError
from rollout_workers.limits import FETCH_SECONDS


def fetch(update: WeightUpdate) -> list[Arrays]:
    """Return the bytes of an update, in this machine's part of the object store: an array for each slot of each bucket.

    Raises WeightsUnavailableError if they cannot be fetched.
    """
    # Ray does not resolve references nested in a message; the arrays are views of its store.
    references = [bucket.data for bucket in update.buckets]
    try:
        found = ray.get(references, timeout=FETCH_SECONDS)
    except RayError as error:
        raise WeightsUnavailableError(f"weight version {update.version} cannot be fetched: {error}") from error
    return [[np.asarray(array) for array in arrays] for arrays in found]
