// Counts of events: a chart by hour or day, and the most frequent names.
import { useState } from "react";

import type { GoTo } from "@/address/use-address";
import { ProblemNotice } from "@/components/problem-notice";
import { countOf } from "@/text/credits";

import { errorWords } from "../failed/error-words";
import { NO_FILTERS } from "../views";
import { CountFilters } from "./count-filters";
import { useCounts, type CountFilter } from "./counts";
import { HourChart } from "./hour-chart";
import { barsOf, rangeOf, type RangeError } from "./range";
import { RankedCounts } from "./ranked-counts";

const RANGE_ERRORS: Record<RangeError, string> = {
  missing: "Choose the first and the last day.",
  reversed: "The last day is before the first one.",
  "too-long": "Choose at most 400 days.",
};

interface Props {
  address: URLSearchParams;
  onGo: GoTo;
}

export function CountsView({ address, onGo }: Props) {
  const [now, setNow] = useState(() => Date.now());
  const range = rangeOf(address, now);
  const filter: CountFilter | null =
    typeof range === "string"
      ? null
      : {
          application: address.get("application"),
          category: address.get("category"),
          name: address.get("name"),
          from: range.from,
          to: range.to,
        };
  const hours = useCounts("hour", filter);
  const names = useCounts("name", filter);
  const categories = useCounts("category", filter);
  const errors = useCounts("error", filter);
  const error = hours.error ?? names.error ?? categories.error ?? errors.error;
  const retry = () => {
    setNow(Date.now());
    for (const each of [hours, names, categories, errors]) void each.refetch();
  };
  const bars =
    hours.data && typeof range !== "string" ? barsOf(hours.data.counts, range) : [];
  const total = bars.reduce((sum, bar) => sum + bar.events, 0);
  return (
    <>
      <CountFilters address={address} onGo={onGo} />
      {typeof range === "string" && (
        <p className="notice" role="status">
          {RANGE_ERRORS[range]}
        </p>
      )}
      {error && <ProblemNotice error={error} onRetry={retry} />}
      {typeof range !== "string" && hours.data && (
        <section
          className="card chart"
          aria-labelledby="counts-title"
          aria-busy={hours.isPlaceholderData}
        >
          <div className="section-head">
            <h2 id="counts-title">
              {countOf(total, "event")} by {range.bucket}
            </h2>
            <button type="button" onClick={retry}>
              Refresh
            </button>
          </div>
          {total === 0 ? (
            <p className="empty">No events in this time. Choose another one.</p>
          ) : (
            <HourChart bars={bars} bucket={range.bucket} />
          )}
        </section>
      )}
      <div className="columns">
        {names.data && (
          <RankedCounts
            title="Most frequent names"
            counts={names.data}
            onChoose={(name) => onGo({ name })}
          />
        )}
        {categories.data && (
          <RankedCounts
            title="Most frequent categories"
            counts={categories.data}
            onChoose={(category) => onGo({ category })}
          />
        )}
        {errors.data && errors.data.counts.length > 0 && (
          <RankedCounts
            title="Errors of failed events, by arrival"
            counts={errors.data}
            nameOf={(code) => errorWords(code).title}
            onChoose={(code) => onGo({ ...NO_FILTERS, view: null, code })}
          />
        )}
      </div>
    </>
  );
}
