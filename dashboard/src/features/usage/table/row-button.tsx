// Opens and closes a row; its text is the message's id.
import type { Row as TableRow } from "@tanstack/react-table";

import type { Row } from "../period";
import { RowText } from "./row-text";

interface Props {
  row: TableRow<Row>;
}

export function RowButton({ row }: Props) {
  const { messageId } = row.original;
  const isOpen = row.getIsExpanded();
  return (
    <button
      type="button"
      className="row-button"
      aria-expanded={isOpen}
      aria-label={`Message ${messageId || "without an id"}, show how its price was made`}
      onClick={() => row.toggleExpanded()}
    >
      <span className="row-chevron" aria-hidden="true" />
      <RowText text={messageId || "–"} />
    </button>
  );
}
