// The title of a column that sorts: ascending, descending, and not again.
import { flexRender, type Header } from "@tanstack/react-table";
import type { MouseEvent } from "react";

import type { Row } from "../period";
import { SortMark } from "./sort-mark";

interface Props {
  header: Header<Row, unknown>;
}

export function SortHeader({ header }: Props) {
  const { column } = header;
  const { table } = header.getContext();
  const direction = column.getIsSorted();
  const count = table.getState().sorting.length;
  const priority = column.getSortIndex() + 1;

  // A key press reaches here as a click that knows of Shift as well.
  function sort({ shiftKey }: MouseEvent) {
    const isOneOfSeveral = direction !== false && count > 1;
    if (isOneOfSeveral && !shiftKey) table.setSorting([{ id: column.id, desc: false }]);
    else column.toggleSorting(undefined, shiftKey);
  }

  return (
    <th
      scope="col"
      className={`column-${column.id}`}
      aria-sort={
        direction !== false && priority === 1 ? `${direction}ending` : undefined
      }
    >
      <button
        type="button"
        className="sort-button"
        onClick={sort}
        title="Hold Shift to sort by several columns"
      >
        {flexRender(column.columnDef.header, header.getContext())}{" "}
        <SortMark direction={direction} priority={count > 1 ? priority : null} />
      </button>
    </th>
  );
}
