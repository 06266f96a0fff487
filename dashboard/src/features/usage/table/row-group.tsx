// One message, and beneath it how its price was made where the row is open. The two are
// one group of rows, whose height is measured where not all rows are drawn.
import { flexRender, type Row as TableRow } from "@tanstack/react-table";
import { memo, type MouseEvent, type ReactNode } from "react";

import type { Row } from "../period";
import type { TableWindow } from "./use-table-window";

interface Props {
  row: TableRow<Row>;
  /** Its place in the order shown. */
  index: number;
  measure: TableWindow["measure"];
  /** Null where the row is closed. */
  details: ReactNode;
}

const HEAD_ROWS = 1;

export const RowGroup = memo(function RowGroup({
  row,
  index,
  measure,
  details,
}: Props) {
  const isOpen = details !== null;

  function toggle({ target }: MouseEvent) {
    const isButton = target instanceof Element && target.closest("button") !== null;
    // Whoever marks text to copy it does not want the row to open.
    const isMarking = getSelection()?.type === "Range";
    if (!isButton && !isMarking) row.toggleExpanded();
  }

  return (
    <tbody
      ref={measure}
      data-index={index}
      className={isOpen ? "row-group row-group-open" : "row-group"}
    >
      {/* The button in the first cell does the same for the keyboard. */}
      <tr
        className="message-row"
        aria-rowindex={measure && index + HEAD_ROWS + 1}
        onClick={toggle}
      >
        {row.getVisibleCells().map(({ id, column, getContext }) => (
          <td key={id} className={`column-${column.id}`}>
            {flexRender(column.columnDef.cell, getContext())}
          </td>
        ))}
      </tr>
      {isOpen && (
        <tr className="details-row">
          <td colSpan={4}>{details}</td>
        </tr>
      )}
    </tbody>
  );
});
