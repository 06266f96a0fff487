// Which rows are drawn: all of a short table, of a long one those in sight and a few
// more, and on paper all that paper is made for. Rows that are not drawn leave their
// height.
import { useVirtualizer } from "@tanstack/react-virtual";
import { useCallback, useEffect, useMemo, type RefObject } from "react";

import type { ColumnSort } from "../view/view";

import { usePrinting } from "@/components/use-printing";

import type { Row } from "../period";

const MOST_DRAWN_AT_ONCE = 500;
/** About 150 pages, which a browser lays out in a few seconds. */
export const MOST_PRINTED = 5_000;
/** As in table.css; rows that are higher, or open, are measured. */
const ROW_HEIGHT_PX = 41;
const ROWS_BEYOND_SIGHT = 12;

export interface TableWindow {
  rows: Row[];
  /** The place of the first of them among all. */
  first: number;
  /** The height of those not drawn, before and after. */
  before: number;
  after: number;
  /** The rows that there are, head and total included; only where not all are drawn. */
  rowCount: number | undefined;
  measure: ((element: HTMLTableSectionElement | null) => void) | undefined;
}

export function useTableWindow(
  rows: readonly Row[],
  sorting: readonly ColumnSort[],
  scroller: RefObject<HTMLDivElement | null>,
): TableWindow {
  const isPrinting = usePrinting();
  const isLong = !isPrinting && rows.length > MOST_DRAWN_AT_ONCE;
  const getItemKey = useCallback((at: number) => rows[at]?.position ?? at, [rows]);
  // eslint-disable-next-line react-hooks/incompatible-library -- no compiler is used
  const virtualizer = useVirtualizer<HTMLDivElement, HTMLTableSectionElement>({
    count: rows.length,
    enabled: isLong,
    getScrollElement: () => scroller.current,
    estimateSize: () => ROW_HEIGHT_PX,
    getItemKey,
    overscan: ROWS_BEYOND_SIGHT,
  });
  const drawn = virtualizer.getVirtualItems();
  const first = isLong ? (drawn[0]?.index ?? 0) : 0;
  const end = isLong ? first + drawn.length : isPrinting ? MOST_PRINTED : rows.length;
  const shown = useMemo(() => rows.slice(first, end), [rows, first, end]);

  // Another order is read from its beginning.
  useEffect(() => {
    if (scroller.current) scroller.current.scrollTop = 0;
  }, [sorting, scroller]);

  return {
    rows: shown,
    first,
    before: isLong ? (drawn[0]?.start ?? 0) : 0,
    after: isLong ? virtualizer.getTotalSize() - (drawn.at(-1)?.end ?? 0) : 0,
    rowCount: isLong ? rows.length + 2 : undefined,
    measure: isLong ? virtualizer.measureElement : undefined,
  };
}
