// What a reader must know before they trust the figures.
import { countOf } from "@/text/credits";

import type { PeriodAnswer } from "./api/use-period";
import { Updated } from "./summary/age";

interface Props {
  answer: PeriodAnswer;
  /** The parts of the address that are not valid. */
  ignored: readonly string[];
  /** Why the last refresh failed, while an earlier answer is shown. */
  error: Error | null;
  onRetry: () => void;
}

/** A first stale answer is no failure: the service refreshes the figures meanwhile. */
const FAILED_AFTER = 2;

export function Notices({ answer, ignored, error, onRetry }: Props) {
  const { period, freshness, staleAnswers } = answer;
  const { degraded, unreadable } = period;
  return (
    <div role="status" className="notices">
      {ignored.length > 0 && (
        <p className="notice">
          These parts of the address are not valid, and are ignored:{" "}
          <bdi>{ignored.join(", ")}</bdi>
        </p>
      )}
      {error && (
        <p className="notice">
          These figures could not be refreshed. <Updated asOf={freshness.asOf} />.{" "}
          <button type="button" onClick={onRetry}>
            Try again
          </button>
        </p>
      )}
      {staleAnswers >= FAILED_AFTER && !error && (
        <p className="notice">
          These figures may be out of date. <Updated asOf={freshness.asOf} />; newer
          ones are not available yet.{" "}
          <button type="button" onClick={onRetry}>
            Refresh
          </button>
        </p>
      )}
      {degraded > 0 && (
        <p className="notice">
          {countOf(degraded, "message")} priced by text, because the report could not be
          had. The price may change.
        </p>
      )}
      {unreadable > 0 && (
        <p className="notice">
          {countOf(unreadable, "message")} with values that could not be read. They are
          shown as they came, and count as no credits where the price is missing.
        </p>
      )}
    </div>
  );
}
