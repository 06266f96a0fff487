// Which report: ranked bars, each of which filters all figures.
import { memo, useState } from "react";

import { countOf, formatCredits } from "@/text/credits";

import type { ReportSum } from "../reports";
import { formatShare } from "./share";

interface Props {
  /** The most credits first. */
  reports: readonly ReportSum[];
  colourOf: (name: string) => number;
  chosen: string | null;
  onChoose: (report: string | null) => void;
}

const FIRST_SHOWN = 8;
const NEXT_SHOWN = 200;

export const WhichReport = memo(function WhichReport(props: Props) {
  const { reports, colourOf, chosen, onChoose } = props;
  const [limit, setLimit] = useState(FIRST_SHOWN);
  const whole = reports.reduce((sum, { hundredths }) => sum + hundredths, 0);
  const highest = Math.max(1, ...reports.map(({ hundredths }) => hundredths));
  // A chosen report is shown, whatever its rank is.
  const shown = reports.filter(({ name }, rank) => rank < limit || name === chosen);
  const rest = reports.length - shown.length;
  return (
    <section className="card which-report" aria-labelledby="which-report-title">
      <h2 id="which-report-title">Which report</h2>
      {reports.length === 0 && <p className="muted">No report to show.</p>}
      <ol className="report-bars">
        {shown.map(({ name, hundredths, messages }) => (
          <li key={name}>
            <button
              type="button"
              className={`report-bar colour-${colourOf(name)}`}
              aria-pressed={chosen === name}
              data-muted={chosen !== null && chosen !== name ? "" : undefined}
              onClick={() => onChoose(chosen === name ? null : name)}
            >
              {name === "" ? (
                <span className="report-bar-name">Without a report</span>
              ) : (
                <bdi className="report-bar-name">{name}</bdi>
              )}{" "}
              <span className="report-bar-credits">{formatCredits(hundredths)}</span>{" "}
              <span className="report-bar-facts">
                {formatShare(hundredths, whole)}, {countOf(messages, "message")}
              </span>
              <span className="report-bar-track" aria-hidden="true">
                <span
                  style={{ width: `${(Math.max(0, hundredths) / highest) * 100}%` }}
                />
              </span>
            </button>
          </li>
        ))}
      </ol>
      {rest > 0 && (
        <button
          type="button"
          className="report-bars-more"
          onClick={() => setLimit(limit + NEXT_SHOWN)}
        >
          Show {rest} more
        </button>
      )}
    </section>
  );
});
