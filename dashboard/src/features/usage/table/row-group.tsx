// One message, and beneath it how its price was made where the row is open. The two are
// one group of rows, whose height is measured where not all rows are drawn.
import { memo, type MouseEvent, type ReactNode } from "react";

import { formatCredits } from "@/text/credits";

import type { Row } from "../period";
import { RowButton } from "./row-button";
import { RowText } from "./row-text";
import type { TableWindow } from "./use-table-window";

interface Props {
  row: Row;
  /** Its place in the order shown. */
  index: number;
  measure: TableWindow["measure"];
  /** Null where the row is closed. */
  details: ReactNode;
  onToggle: (row: Row) => void;
}

const HEAD_ROWS = 1;

export const RowGroup = memo(function RowGroup(props: Props) {
  const { row, index, measure, details, onToggle } = props;
  const isOpen = details !== null;

  function toggle({ target }: MouseEvent) {
    const isButton = target instanceof Element && target.closest("button") !== null;
    // Whoever marks text to copy it does not want the row to open.
    const isMarking = getSelection()?.type === "Range";
    if (!isButton && !isMarking) onToggle(row);
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
        <td className="column-message_id">
          <RowButton
            messageId={row.messageId}
            isOpen={isOpen}
            onToggle={() => onToggle(row)}
          />
        </td>
        <td className="column-timestamp">
          <RowText text={row.timestamp} />
        </td>
        <td className="column-report_name">
          <RowText text={row.reportName} />
        </td>
        <td className="column-credits_used">
          {row.hundredths === null ? "–" : formatCredits(row.hundredths)}
        </td>
      </tr>
      {isOpen && (
        <tr className="details-row">
          <td colSpan={4}>{details}</td>
        </tr>
      )}
    </tbody>
  );
});
