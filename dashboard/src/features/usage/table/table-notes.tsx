// Sentences beside the table: its order for screen readers, and which rows are missing.
import { formatCount } from "@/text/credits";

import type { ColumnSort } from "../view/view";
import { SORT_TITLES } from "./columns";
import { MOST_PRINTED } from "./use-table-window";

/** At twice a row's usual height they come near to the highest page that browsers have. */
export const MOST_ROWS = 250_000;

interface Props {
  sorting: readonly ColumnSort[];
  /** How many rows there are. */
  count: number;
}

export function TableNotes({ sorting, count }: Props) {
  const columns = sorting.map(
    ({ column, direction }) => `${SORT_TITLES[column]} ${direction}ending`,
  );
  return (
    <>
      <p className="visually-hidden" role="status" aria-live="polite">
        {columns.length
          ? `Sorted by ${columns.join(", then ")}.`
          : "In the original order."}
      </p>
      {count > MOST_ROWS && (
        <p className="notice" role="status">
          Only the first {formatCount(MOST_ROWS)} of {formatCount(count)} messages are
          listed here. The total and the export have all of them; filters show fewer.
        </p>
      )}
      {count > MOST_PRINTED && (
        <p className="print-only">
          The first {formatCount(MOST_PRINTED)} of {formatCount(count)} messages are
          printed here. The total includes all of them, and “Export CSV” saves all.
        </p>
      )}
    </>
  );
}
