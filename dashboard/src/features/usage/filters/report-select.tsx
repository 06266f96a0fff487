// The filter by report. A report of the address that the period lacks is there to be seen.
import { memo, useId } from "react";

import { formatCount } from "@/text/credits";

import { shorten } from "./shorten";

interface Props {
  /** In alphabetical order. */
  reports: readonly string[];
  /** The empty text is the messages that no report priced. */
  chosen: string | null;
  onChoose: (report: string | null) => void;
}

const ALL = "all";
/** Before a name: no name can be mistaken for `ALL`, and none is empty. */
const NAMED = "=";
/** A longer list helps nobody; a part of the name, typed, does. */
const MOST_OPTIONS = 1_000;

export function ReportSelect({ reports, chosen, onChoose }: Props) {
  const id = useId();
  const isListed =
    chosen === null || chosen === "" || reports.slice(0, MOST_OPTIONS).includes(chosen);
  const isMissing = !isListed && !reports.includes(chosen);
  return (
    <div className="filter">
      <label htmlFor={id}>Report</label>
      <select
        id={id}
        value={chosen === null ? ALL : NAMED + chosen}
        onChange={({ target: { value } }) =>
          onChoose(value === ALL ? null : value.slice(NAMED.length))
        }
      >
        <option value={ALL}>All reports</option>
        <option value={NAMED}>No report</option>
        {!isListed && (
          <option value={NAMED + chosen} dir="auto">
            {shorten(chosen) + (isMissing ? " (not in this period)" : "")}
          </option>
        )}
        <ReportOptions reports={reports} />
      </select>
    </div>
  );
}

const ReportOptions = memo(function ReportOptions({ reports }: Pick<Props, "reports">) {
  const left = reports.length - MOST_OPTIONS;
  return (
    <>
      {reports.slice(0, MOST_OPTIONS).map((name) => (
        <option key={name} value={NAMED + name} dir="auto">
          {shorten(name)}
        </option>
      ))}
      {left > 0 && (
        <option disabled>{formatCount(left)} more: type a part of the name</option>
      )}
    </>
  );
});
