// How much: the credits of the shown messages, and what they are measured by.
import type { ReactNode } from "react";

import { countOf, formatCredits, formatDifference } from "@/text/credits";
import { formatDay, formatInstant } from "@/text/time";

import type { Budget } from "../api/use-budgets";
import type { Changes } from "../api/use-changes";
import type { Forecast } from "../api/use-forecast";
import type { KeptPeriod } from "../api/use-periods";
import type { DayRange, Totals } from "../period";
import type { Visit } from "./last-visit";
import { formatShare } from "./share";

interface Props {
  /** Of the messages that the filters let through, and of the whole period. */
  shown: Totals;
  whole: Totals;
  isFiltered: boolean;
  isWhatIf: boolean;
  /** The days of the figure, chosen or of the period; null without a message. */
  span: DayRange | null;
  zone: string;
  previous: KeptPeriod | null;
  budgets: readonly Budget[];
  forecast: Forecast | null;
  changes: Changes | null;
  visit: Visit | null;
  children: ReactNode;
}

export function HowMuch(props: Props) {
  const { shown, whole, isFiltered, isWhatIf, span, zone } = props;
  const { previous, budgets, forecast, changes, visit } = props;
  return (
    <section className="card how-much" aria-labelledby="how-much-title">
      <h2 id="how-much-title">{isWhatIf ? "How much it would cost" : "How much"}</h2>
      <p className="figure">
        <strong>{formatCredits(shown.hundredths)}</strong> credits
      </p>
      {span && (
        <p className="muted">
          <Day of={span.from} />
          {span.to !== span.from && (
            <>
              {" "}
              to <Day of={span.to} />
            </>
          )}{" "}
          ({zone})
        </p>
      )}
      <p>
        {countOf(shown.messages, "message")}
        {isFiltered &&
          `, ${formatShare(shown.hundredths, whole.hundredths)} of the ${formatCredits(whole.hundredths)} credits of the period`}
      </p>
      {budgets.map(({ name, hundredths }) => (
        <BudgetLine
          key={name}
          name={name}
          hundredths={hundredths}
          used={whole.hundredths}
        />
      ))}
      {forecast && (
        <p>
          Expected until <Day of={forecast.ends} />:{" "}
          <strong>{formatCredits(forecast.expected)}</strong> credits,{" "}
          {Math.round(forecast.confidence * 100)}% likely between{" "}
          {formatCredits(forecast.low)} and {formatCredits(forecast.high)}
        </p>
      )}
      {previous && (
        <p>
          <strong>{formatDifference(whole.hundredths - previous.hundredths)}</strong>{" "}
          credits against the period before, <Day of={previous.from} /> to{" "}
          <Day of={previous.to} /> ({formatCredits(previous.hundredths)})
        </p>
      )}
      {changes && visit && <ChangesLine changes={changes} at={visit.at} />}
      {props.children}
    </section>
  );
}

/** A date that no line breaks at its hyphens. */
function Day({ of }: { of: string }) {
  return <span className="day">{formatDay(of)}</span>;
}

interface BudgetProps extends Budget {
  used: number;
}

function BudgetLine({ name, hundredths, used }: BudgetProps) {
  const label = `Budget ${name}: ${formatShare(used, hundredths)} of ${formatCredits(hundredths)} credits`;
  const rest = hundredths - used;
  return (
    <div className={rest < 0 ? "budget is-over" : "budget"}>
      <p>
        {label};{" "}
        {rest < 0
          ? `${formatCredits(-rest)} too many`
          : `${formatCredits(rest)} remain`}
      </p>
      <meter
        min={0}
        max={hundredths}
        value={Math.min(used, hundredths)}
        aria-label={label}
      />
    </div>
  );
}

const KINDS = new Map([
  ["added", "added"],
  ["removed", "removed"],
  ["text_changed", "with another text"],
  ["report_changed", "whose report changed"],
  ["report_missing", "whose report is gone"],
  ["report_found", "whose report was found"],
  ["plan_changed", "under another plan"],
  ["adjustment", "adjusted"],
]);

function ChangesLine({ changes, at }: { changes: Changes; at: number }) {
  const { counts, isCut, hundredthsBefore, hundredthsAfter } = changes;
  const parts = [...counts].map(
    ([kind, count]) => `${countOf(count, "message")} ${KINDS.get(kind) ?? "changed"}`,
  );
  return (
    <p>
      Since your last visit on <span className="day">{formatInstant(at)}</span> (UTC):{" "}
      {parts.length === 0 ? (
        "no change"
      ) : (
        <>
          <strong>{formatDifference(hundredthsAfter - hundredthsBefore)}</strong>{" "}
          credits, {isCut && "at least "}
          {parts.join(", ")}
        </>
      )}
    </p>
  );
}
