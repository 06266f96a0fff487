// What narrows all figures: a period, days, a report, a part of a report's name; and the
// zone of the days.
import { useId, useMemo, useRef } from "react";

import { countOf, formatCount } from "@/text/credits";

import type { KeptPeriod } from "../api/use-periods";
import type { Day, Row } from "../period";
import { reportNames } from "../sums";
import type { ChangeView } from "../view/use-view";
import { LONGEST_TEXT, NO_FILTERS, type View } from "../view/view";
import { DaySelect } from "./day-select";
import { PeriodSelect } from "./period-select";
import { ReportSelect } from "./report-select";
import { ZoneSelect } from "./zone-select";

interface Props {
  /** Of the whole period. */
  rows: readonly Row[];
  days: readonly Day[];
  periods: readonly KeptPeriod[] | null;
  view: View;
  onChange: ChangeView;
  /** How many messages match. */
  shown: number;
}

export function Filters({ rows, days, periods, view, onChange, shown }: Props) {
  const reports = useMemo(() => reportNames(rows), [rows]);
  const search = useRef<HTMLInputElement>(null);
  const searchId = useId();
  const isOn = view.range !== null || view.report !== null || view.search !== "";
  const clear = () => {
    onChange(NO_FILTERS);
    // The button goes away with the filters, and must not take the focus with it.
    search.current?.focus();
  };
  return (
    <form
      className="card filters"
      role="search"
      aria-label="Filters"
      onSubmit={(event) => event.preventDefault()}
    >
      {periods && (
        <PeriodSelect
          periods={periods}
          chosen={view.period}
          // Days of one period are not in another.
          onChoose={(period) => onChange({ period, range: null })}
        />
      )}
      <DaySelect
        days={days}
        chosen={view.range}
        onChoose={(range) => onChange({ range })}
      />
      <ReportSelect
        reports={reports}
        chosen={view.report}
        onChoose={(report) => onChange({ report })}
      />
      <div className="filter">
        <label htmlFor={searchId}>Report name contains</label>
        <input
          ref={search}
          id={searchId}
          type="search"
          dir="auto"
          autoComplete="off"
          spellCheck={false}
          maxLength={LONGEST_TEXT}
          value={view.search}
          onChange={({ target }) => onChange({ search: target.value })}
        />
      </div>
      <ZoneSelect zone={view.zone} onChoose={(zone) => onChange({ zone })} />
      <p role="status" className="filters-status">
        Showing {formatCount(shown)} of {countOf(rows.length, "message")}
      </p>
      <button type="button" className="filters-clear" disabled={!isOn} onClick={clear}>
        Clear filters
      </button>
    </form>
  );
}
