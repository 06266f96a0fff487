// Sentences beside the table: its order for screen readers, and which rows are missing.
import { formatCount } from "@/text/credits";

import type { ColumnSort } from "../view/view";
import { SORT_TITLES } from "./columns";

/** At twice a row's usual height they come near to the highest page that browsers have. */
export const MOST_ROWS = 250_000;

interface Props {
  sorting: readonly ColumnSort[];
  /** How many rows are drawn, and how many there are. */
  drawn: number;
  count: number;
}

export function TableNotes({ sorting, drawn, count }: Props) {
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
      {drawn < count && (
        <p className="print-only">
          Only {formatCount(drawn)} of {formatCount(count)} messages are printed here;
          “Export CSV” saves all of them.
        </p>
      )}
    </>
  );
}
