// Saves what the table shows as a file.
import type { Row } from "../period";
import { sortRows } from "../select-rows";
import type { ColumnSort } from "../view/view";
import { toCsv } from "./csv";

/** Some browsers read the file only after the click has been dealt with. */
const KEPT_FOR_MS = 10_000;
const LONGEST_NAME = 150;

interface Props {
  /** Filtered, and in the order of the messages. */
  rows: readonly Row[];
  sorting: readonly ColumnSort[];
  zone: string;
  /** The days of the period: `2024-04-29 to 2024-05-28`. */
  period: string;
  plan: string | null;
  isWhatIf: boolean;
  /** In words; empty where nothing is filtered. */
  filters: string;
}

export function ExportButton(props: Props) {
  const { rows, sorting, zone, plan, isWhatIf } = props;
  const whatIfPlan = isWhatIf ? (plan ?? "another plan") : null;
  const save = () =>
    saveAs(fileName(props), toCsv(sortRows(rows, sorting), { zone, whatIfPlan }));
  return (
    <button type="button" onClick={save}>
      Export CSV
    </button>
  );
}

/** `copilot-usage 2024-04-29 to 2024-05-28, text-rules-1, report Lease.csv`. */
function fileName({ period, plan, isWhatIf, filters }: Props): string {
  const parts = [
    `copilot-usage ${period}`.trim(),
    plan?.replace("/", "-") ?? "",
    isWhatIf ? "not your plan" : "",
    filters,
  ];
  // What file systems refuse, and what leads out of a folder.
  const name = parts
    .filter(Boolean)
    .join(", ")
    .replaceAll(/[^\p{L}\p{M}\p{N} ,_-]+/gu, "");
  return `${Array.from(name).slice(0, LONGEST_NAME).join("").trim()}.csv`;
}

function saveAs(name: string, text: string): void {
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), KEPT_FOR_MS);
}
