// What a press on a column's title sorts by: ascending, descending, and not again.
import type { ColumnSort, SortColumn } from "../view/view";

/** Return the columns to sort by; with `isAdding` the other columns keep sorting. */
export function nextSorting(
  sorting: readonly ColumnSort[],
  column: SortColumn,
  isAdding: boolean,
): ColumnSort[] {
  const now = sorting.find((each) => each.column === column);
  if (!now || (sorting.length > 1 && !isAdding)) {
    return [...(isAdding ? sorting : []), { column, direction: "asc" }];
  }
  return sorting.flatMap((each) => {
    if (each !== now) return [each];
    return now.direction === "asc" ? [{ column, direction: "desc" }] : [];
  });
}
