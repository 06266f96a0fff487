// The messages of the period: sorted, scrolled, and opened one by one.
import { useMemo, useRef, type ReactNode } from "react";

import type { ColumnSort } from "../view/view";

import type { Row } from "../period";
import { sortRows } from "../select-rows";
import { TableBody } from "./table-body";
import { TableHead } from "./table-head";
import { MOST_ROWS, TableNotes } from "./table-notes";
import { TableTotal } from "./table-total";
import { useTableWindow } from "./use-table-window";

interface Props {
  /** Filtered, and in the order of the messages. */
  rows: readonly Row[];
  sorting: readonly ColumnSort[];
  /** Name of the time zone of the timestamps. */
  zone: string;
  onSort: (sorting: ColumnSort[]) => void;
  renderDetails: (row: Row) => ReactNode;
}

export function UsageTable({ rows, sorting, zone, onSort, renderDetails }: Props) {
  const scroller = useRef<HTMLDivElement>(null);
  const sorted = useMemo(
    () => sortRows(rows, sorting).slice(0, MOST_ROWS),
    [rows, sorting],
  );
  const tableWindow = useTableWindow(sorted, sorting, scroller);
  return (
    <>
      <TableNotes sorting={sorting} count={rows.length} />
      <div
        className="table-scroll"
        role="region"
        aria-label="Table of messages, scrolls"
        // Who has only a keyboard scrolls what has the focus.
        // eslint-disable-next-line jsx-a11y/no-noninteractive-tabindex
        tabIndex={0}
        ref={scroller}
      >
        <table className="usage-table" aria-rowcount={tableWindow.rowCount}>
          <caption className="visually-hidden">
            Messages and the credits they used
          </caption>
          <TableHead sorting={sorting} zone={zone} onSort={onSort} />
          <TableBody window={tableWindow} renderDetails={renderDetails} />
          <TableTotal rows={rows} rowIndex={tableWindow.rowCount} />
        </table>
      </div>
    </>
  );
}
