// The table's columns, the same on the screen and in the export.
import type { SortColumn } from "../view/view";

export const COLUMN_TITLES = [
  "Message ID",
  "Timestamp",
  "Report Name",
  "Credits Used",
] as const;

export const SORT_TITLES: Record<SortColumn, string> = {
  report_name: "Report Name",
  credits_used: "Credits Used",
};
