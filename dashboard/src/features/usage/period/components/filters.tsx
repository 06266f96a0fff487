// What narrows the table: a day, a report, a part of a report's name.
import { useMemo, useRef } from "react";

import { countOf, formatCount } from "@/text/credits";
import type { ChangeView } from "@/features/usage/view/use-view";
import { NO_FILTERS, type View } from "@/features/usage/view/view";

import type { Day, Row } from "../period";
import { reportNames } from "../sums";
import { DaySelect } from "./day-select";
import { ReportSelect } from "./report-select";
import { SearchField } from "./search-field";

interface Props {
  /** Of the whole period. */
  rows: readonly Row[];
  days: readonly Day[];
  view: View;
  onChange: ChangeView;
  /** How many messages match. */
  shown: number;
}

export function Filters({ rows, days, view, onChange, shown }: Props) {
  const reports = useMemo(() => reportNames(rows), [rows]);
  const search = useRef<HTMLInputElement>(null);
  const isOn = view.day !== null || view.report !== null || view.search !== "";
  const clear = () => {
    onChange(NO_FILTERS);
    // The button goes away with the filters, and must not take the focus with it.
    search.current?.focus();
  };
  return (
    <form
      className="filters"
      role="search"
      aria-label="Filters"
      onSubmit={(event) => event.preventDefault()}
    >
      <DaySelect days={days} chosen={view.day} onChoose={(day) => onChange({ day })} />
      <ReportSelect
        reports={reports}
        chosen={view.report}
        onChoose={(report) => onChange({ report })}
      />
      <SearchField
        field={search}
        text={view.search}
        onType={(search) => onChange({ search })}
      />
      {isOn && (
        <button type="button" className="filters-clear" onClick={clear}>
          Clear filters
        </button>
      )}
      <p role="status" className="filters-status">
        Showing {formatCount(shown)} of {countOf(rows.length, "message")}
      </p>
    </form>
  );
}
