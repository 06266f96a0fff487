// What a reader must know before they trust the figures.
import { ApiError } from "@/api/client";
import type { Freshness } from "@/api/freshness";
import { Updated } from "@/features/usage/period/components/updated";
import type { Period } from "@/features/usage/period/period";
import { countOf } from "@/text/credits";

interface Props {
  period: Period;
  freshness: Freshness;
  error: Error | null;
  onRetry: () => void;
}

export function Notices({ period, freshness, error, onRetry }: Props) {
  const { degraded, unreadable } = period;
  const title = error instanceof ApiError ? error.problem.title : error?.message;
  return (
    <div role="status" className="notices">
      {error && (
        <p className="notice">
          These figures could not be refreshed: {title}.{" "}
          <button type="button" onClick={onRetry}>
            Try again
          </button>
        </p>
      )}
      {freshness.isStale && !error && (
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
