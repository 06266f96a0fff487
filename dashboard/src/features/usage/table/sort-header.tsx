// The title of a column that sorts: ascending, descending, and not again.
import type { ColumnSort, SortColumn } from "../view/view";
import { SORT_TITLES } from "./columns";
import { nextSorting } from "./next-sorting";
import { SortMark } from "./sort-mark";

interface Props {
  column: SortColumn;
  sorting: readonly ColumnSort[];
  onSort: (sorting: ColumnSort[]) => void;
}

export function SortHeader({ column, sorting, onSort }: Props) {
  const at = sorting.findIndex((each) => each.column === column);
  const direction = sorting[at]?.direction ?? null;
  return (
    <th
      scope="col"
      className={`column-${column}`}
      aria-sort={direction !== null && at === 0 ? `${direction}ending` : undefined}
    >
      <button
        type="button"
        className="sort-button"
        // A key press reaches here as a click that knows of Shift as well.
        onClick={({ shiftKey }) => onSort(nextSorting(sorting, column, shiftKey))}
        title="Hold Shift to sort by several columns"
      >
        {SORT_TITLES[column]}{" "}
        <SortMark direction={direction} priority={sorting.length > 1 ? at + 1 : null} />
      </button>
    </th>
  );
}
