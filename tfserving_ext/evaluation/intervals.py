"""Bootstrap intervals over users (adr/0015).

Since cases of one user resemble each other, users are resampled, each with all of its cases. A bootstrap computes every
metric on the same resamples, so that intervals of differences are paired.

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
_AT_ONCE = 1 << 22  # The number of draws held in memory.

Interval = tuple[float, float]


class Bootstrap:
    """Resamples of users, the same for every metric. Values of cases, [N], are in the order of `user_ids`.

    Attributes:
      users: the number of users.
    """

    def __init__(self, user_ids: np.ndarray, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL) -> None:
        """Prepares the resamples.

        Args:
          user_ids: int64 [N], the user of each case.
          resamples: number of resamples.
          seed: for the draws.
          level: the level of the intervals, between 0 and 1.

        Raises:
          NannError: there is no case, or `resamples` or `level` is out of range.
        """
        if not len(user_ids):
            raise NannError("there are no cases to compute intervals from")
        if resamples < 1:
            raise NannError(f"resamples is {resamples}; it must be 1 or more")
        if not 0 < level < 1:
            raise NannError(f"level is {level}; it must be between 0 and 1")
        unique, self._user = np.unique(user_ids, return_inverse=True)
        self.users = len(unique)
        self._cases = np.bincount(self._user)
        self._resamples, self._seed, self._level = resamples, seed, level

    def by_user(self, values: np.ndarray) -> np.ndarray:
        """Returns the mean of each user's cases: float64 [users], by ascending user id."""
        return self._sums(values) / self._cases

    def means(self, values: np.ndarray) -> np.ndarray:
        """Returns the mean over cases in each resample: float64 [resamples]."""
        sums = self._sums(values)
        parts = [(times @ sums) / (times @ self._cases) for times in self._times()]
        return np.concatenate(parts)

    def user_percentiles(self, values: np.ndarray, percentile: float) -> np.ndarray:
        """Returns in each resample a percentile over users of their means: float64 [resamples]."""
        per_user = self.by_user(values)
        return np.concatenate([np.percentile(per_user[draws], percentile, axis=1) for draws in self._draws()])

    def limits(self, resampled: np.ndarray) -> Interval:
        """Returns the percentile interval of a metric that was computed in each resample."""
        low, high = np.quantile(resampled, [(1 - self._level) / 2, (1 + self._level) / 2])
        return float(low), float(high)

    def interval(self, values: np.ndarray) -> Interval:
        """Returns the interval of the mean of `values` [N] over cases."""
        return self.limits(self.means(values))

    def difference(self, values: np.ndarray, others: np.ndarray) -> tuple[float, Interval]:
        """Returns mean(values) - mean(others), both [N] for the same cases, and its paired interval."""
        differences = np.asarray(values, np.float64) - others
        return float(differences.mean()), self.interval(differences)

    def _sums(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self._user, weights=np.asarray(values, np.float64), minlength=self.users)

    def _draws(self) -> Iterator[np.ndarray]:
        """Yields users drawn with replacement, int64 [some resamples, users]; the same in every call."""
        rng = np.random.default_rng(self._seed)
        at_once = max(1, _AT_ONCE // self.users)
        for start in range(0, self._resamples, at_once):
            yield rng.integers(self.users, size=(min(at_once, self._resamples - start), self.users))

    def _times(self) -> Iterator[np.ndarray]:
        """Yields how often each user was drawn: float64 [some resamples, users]."""
        for draws in self._draws():
            places = draws + self.users * np.arange(len(draws))[:, None]
            counts = np.bincount(places.ravel(), minlength=draws.size)
            yield counts.reshape(draws.shape).astype(np.float64)
