// Says aloud how the table is sorted, when that changes.
import type { ColumnSort } from "@/features/usage/view/view";

import { SORT_TITLES } from "../columns";

interface Props {
  sorting: readonly ColumnSort[];
}

export function SortStatus({ sorting }: Props) {
  const columns = sorting.map(
    ({ column, direction }) => `${SORT_TITLES[column]} ${direction}ending`,
  );
  return (
    <p className="visually-hidden" role="status" aria-live="polite">
      {columns.length
        ? `Sorted by ${columns.join(", then ")}.`
        : "In the original order."}
    </p>
  );
}
