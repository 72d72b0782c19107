"""Bootstrap intervals over users (adr/0015).

Cases of one user resemble each other, so that users are resampled, each with all of its cases. Every figure of one
bootstrap is computed on the same resamples, which makes intervals of differences paired.

Example:
  >>> bootstrap = Bootstrap(user_ids)
  >>> low, high = bootstrap.interval(recall_of_a_case)
  >>> difference, (low, high) = bootstrap.difference(recall_of_one_model, recall_of_another)
"""

from collections.abc import Iterator

import numpy as np

from tfserving_ext.errors import NannError

RESAMPLES = 1000
LEVEL = 0.95
_AT_ONCE = 1 << 22  # Draws held in memory.

Interval = tuple[float, float]


class Bootstrap:
    """Resamples of users, the same for every figure.

    Attributes:
      users: how many there are.
    """

    def __init__(self, user_ids: np.ndarray, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL) -> None:
        """Takes the user of each case, int64 [N].

        Raises:
          NannError: no case, no resample, or a level that is not between 0 and 1.
        """
        if not len(user_ids):
            raise NannError("there are no cases to take intervals of")
        if resamples < 1:
            raise NannError(f"resamples is {resamples}; it must be 1 or more")
        if not 0 < level < 1:
            raise NannError(f"level is {level}; it must be between 0 and 1")
        unique, self._user = np.unique(user_ids, return_inverse=True)
        self.users = len(unique)
        self._cases = np.bincount(self._user)
        self._resamples, self._seed, self._level = resamples, seed, level

    def by_user(self, values: np.ndarray) -> np.ndarray:
        """The mean of each user's cases: float64 [users]."""
        return self._sums(values) / self._cases

    def means(self, values: np.ndarray) -> np.ndarray:
        """The mean over cases in each resample: float64 [resamples]."""
        sums = self._sums(values)
        parts = [(times @ sums) / (times @ self._cases) for times in self._times()]
        return np.concatenate(parts)

    def user_percentiles(self, values: np.ndarray, percentile: float) -> np.ndarray:
        """A percentile over users of the mean of each one's cases, in each resample: float64 [resamples]."""
        per_user = self.by_user(values)
        return np.concatenate([np.percentile(per_user[draws], percentile, axis=1) for draws in self._draws()])

    def limits(self, resampled: np.ndarray) -> Interval:
        """The percentile interval of a figure that was computed in each resample."""
        low, high = np.quantile(resampled, [(1 - self._level) / 2, (1 + self._level) / 2])
        return float(low), float(high)

    def interval(self, values: np.ndarray) -> Interval:
        """The interval of the mean of `values` [N] over cases."""
        return self.limits(self.means(values))

    def difference(self, values: np.ndarray, others: np.ndarray) -> tuple[float, Interval]:
        """mean(values) - mean(others), both [N] of the same cases, and its paired interval."""
        differences = np.asarray(values, np.float64) - others
        return float(differences.mean()), self.interval(differences)

    def _sums(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self._user, weights=np.asarray(values, np.float64), minlength=self.users)

    def _draws(self) -> Iterator[np.ndarray]:
        """Users drawn with replacement: int64 [some resamples, users], the same in every call."""
        rng = np.random.default_rng(self._seed)
        at_once = max(1, _AT_ONCE // self.users)
        for start in range(0, self._resamples, at_once):
            yield rng.integers(self.users, size=(min(at_once, self._resamples - start), self.users))

    def _times(self) -> Iterator[np.ndarray]:
        """How often each user was drawn: float64 [some resamples, users]."""
        for draws in self._draws():
            places = draws + self.users * np.arange(len(draws))[:, None]
            counts = np.bincount(places.ravel(), minlength=draws.size)
            yield counts.reshape(draws.shape).astype(np.float64)
