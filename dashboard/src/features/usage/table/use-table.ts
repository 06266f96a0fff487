// The table's columns, sorting and open rows, as TanStack Table keeps them. It is given
// only the rows that are drawn: what it makes of each row costs too much for 100,000.
import {
  functionalUpdate,
  getCoreRowModel,
  useReactTable,
  type ExpandedState,
  type SortingState,
  type Updater,
} from "@tanstack/react-table";
import { useState } from "react";

import { SORT_COLUMNS, type ColumnSort } from "../view/view";

import type { Row } from "../period";
import { COLUMNS } from "./table-columns";

interface Options {
  sorting: readonly ColumnSort[];
  zone: string;
  onSort: (sorting: ColumnSort[]) => void;
}

export function useTable(rows: Row[], { sorting, zone, onSort }: Options) {
  const [expanded, setExpanded] = useState<ExpandedState>({});
  const state = { sorting: toTableSorting(sorting), expanded };
  // eslint-disable-next-line react-hooks/incompatible-library -- no compiler is used
  return useReactTable<Row>({
    data: rows,
    columns: COLUMNS,
    meta: { zone },
    state,
    // With its message's id, as another period has others in its places.
    getRowId: ({ position, messageId }) => `${position} ${messageId}`,
    getCoreRowModel: getCoreRowModel(),
    manualSorting: true,
    sortDescFirst: false,
    // Or each other window of rows would close the open ones.
    autoResetAll: false,
    getRowCanExpand: () => true,
    onExpandedChange: setExpanded,
    onSortingChange: (change: Updater<SortingState>) =>
      onSort(fromTableSorting(functionalUpdate(change, state.sorting))),
  });
}

function toTableSorting(sorting: readonly ColumnSort[]): SortingState {
  return sorting.map(({ column, direction }) => ({
    id: column,
    desc: direction === "desc",
  }));
}

function fromTableSorting(sorting: SortingState): ColumnSort[] {
  return sorting.flatMap(({ id, desc }) =>
    SORT_COLUMNS.filter((column) => column === id).map((column) => ({
      column,
      direction: desc ? "desc" : "asc",
    })),
  );
}
