"""Reports as columns, so that a batch finds the reports of all its messages at once."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from service.usage.snapshots.build import ReportPrice

NO_REPORT: Final = -1


class ReportTable:
    """The reports that exist, by their keys."""

    def __init__(self, reports: Mapping[str, ReportPrice]) -> None:
        keys = sorted(reports)
        self._keys = pa.array(keys, pa.string())
        self.names: Sequence[str] = [reports[key].name for key in keys]
        # The additional last element is that of `NO_REPORT`, -1.
        costs = [*(reports[key].hundredths for key in keys), 0]
        self.hundredths: NDArray[np.int64] = np.array(costs, np.int64)

    def find(self, keys: Any) -> NDArray[np.int32]:
        """Return the index of each key's report, or `NO_REPORT`: `(n_keys,)` int32."""
        found = pc.index_in(keys, value_set=self._keys, skip_nulls=True)
        indexes: NDArray[np.int32] = found.fill_null(NO_REPORT).to_numpy()
        return indexes
