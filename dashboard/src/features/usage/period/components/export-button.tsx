// Saves what the table shows as a file.
import type { ColumnSort } from "@/features/usage/view/view";

import { toCsv } from "../csv";
import type { Row } from "../period";
import { sortRows } from "../select-rows";

const FILE_NAME = "copilot-usage.csv";
/** Some browsers read the file only after the click has been dealt with. */
const KEPT_FOR_MS = 10_000;

interface Props {
  /** Filtered, and in the order of the messages. */
  rows: readonly Row[];
  sorting: readonly ColumnSort[];
}

export function ExportButton({ rows, sorting }: Props) {
  return (
    <button type="button" onClick={() => save(toCsv(sortRows(rows, sorting)))}>
      Export CSV
    </button>
  );
}

function save(text: string): void {
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = FILE_NAME;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), KEPT_FOR_MS);
}
