// What each column shows, and which of them sort.
import { createColumnHelper } from "@tanstack/react-table";

import { formatCredits } from "@/text/credits";
import type { SortColumn } from "../view/view";

import { COLUMN_TITLES } from "./columns";
import type { Row } from "../period";
import { RowButton } from "./row-button";
import { RowText } from "./row-text";

declare module "@tanstack/react-table" {
  // eslint-disable-next-line @typescript-eslint/no-unused-vars -- as the library has it
  interface TableMeta<TData> {
    /** Name of the time zone of the timestamps. */
    zone: string;
  }
}

const [MESSAGE_ID, TIMESTAMP, REPORT_NAME, CREDITS_USED] = COLUMN_TITLES;
const { accessor, display } = createColumnHelper<Row>();

export const COLUMNS = [
  display({
    id: "message_id",
    header: MESSAGE_ID,
    cell: ({ row }) => <RowButton row={row} />,
  }),
  display({
    id: "timestamp",
    header: ({ table }) => (
      <>
        {TIMESTAMP}{" "}
        <span className="column-note">({table.options.meta?.zone ?? "UTC"})</span>
      </>
    ),
    cell: ({ row }) => <RowText text={row.original.timestamp} />,
  }),
  accessor(({ reportName }) => reportName, {
    id: "report_name" satisfies SortColumn,
    header: REPORT_NAME,
    cell: ({ row }) => <RowText text={row.original.reportName} />,
  }),
  accessor(({ hundredths }) => hundredths, {
    id: "credits_used" satisfies SortColumn,
    header: CREDITS_USED,
    cell: ({ row: { original } }) =>
      original.hundredths === null ? "–" : formatCredits(original.hundredths),
  }),
];
