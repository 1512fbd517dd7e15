"""Which prompts a step of `fit` sees."""

from __future__ import annotations

import math

import jax
import numpy as np

from bayesft.base import Key


class Order:
    """Batches of prompts of one size, each prompt once per epoch; a function of key and step.

    `order.rows(step)` are the rows of a step, [min(size, num_prompts)].
    """

    def __init__(self, num_prompts: int, size: int, key: Key):
        self.num_prompts, self.size, self.key = num_prompts, min(size, num_prompts), key
        self._walk = (0, 0, np.zeros(0, np.int64))  # next step, next epoch, what is left

    def rows(self, step: int) -> np.ndarray:
        # Epochs and steps end together after every so many steps, so that a walk may start there.
        start = step - step % (self.num_prompts // math.gcd(self.num_prompts, self.size))
        if not start <= self._walk[0] <= step:
            self._walk = (start, start * self.size // self.num_prompts, self._walk[2][:0])
        while True:
            at, epoch, queue = self._walk
            while len(queue) < self.size:
                shuffled = self._shuffled(epoch)
                # What is left of the last epoch goes to the back: twice in one batch, a prompt
                # would draw the same lanes twice, for keys fold in its id.
                left = np.isin(shuffled, queue)
                queue = np.concatenate([queue, shuffled[~left], shuffled[left]])
                epoch += 1
            self._walk = (at + 1, epoch, queue[self.size :])
            if at == step:
                return queue[: self.size]

    def _shuffled(self, epoch: int) -> np.ndarray:
        key = jax.random.fold_in(self.key, epoch)
        return np.asarray(jax.random.permutation(key, self.num_prompts))
