// Which message: the table of the shown messages, each of which opens to its price.
import { lazy, memo, Suspense } from "react";

import type { Row } from "./period";
import { UsageTable } from "./table/usage-table";
import type { ChangeView } from "./view/use-view";
import { NO_FILTERS, type View } from "./view/view";

// Loaded when the first message is opened.
const Explanation = lazy(async () => {
  const { Explanation: Content } = await import("./explanation/explanation");
  return { default: Content };
});

interface Props extends Pick<View, "sorting" | "zone" | "period"> {
  /** Those that the filters let through. */
  rows: readonly Row[];
  /** The plan that priced them. */
  plan: string | null;
  onChange: ChangeView;
}

export const Messages = memo(function Messages(props: Props) {
  const { rows, sorting, zone, period, plan, onChange } = props;
  if (rows.length === 0) {
    return (
      <p className="empty">
        No message matches these filters.{" "}
        <button type="button" onClick={() => onChange(NO_FILTERS)}>
          Show all messages
        </button>
      </p>
    );
  }
  return (
    <UsageTable
      rows={rows}
      sorting={sorting}
      zone={zone}
      onSort={(sorting) => onChange({ sorting })}
      renderDetails={(row) => (
        <Suspense fallback={<p role="status">Looking up how this price was made…</p>}>
          <Explanation
            messageId={row.messageId}
            plan={plan}
            period={period}
            hundredths={row.hundredths}
          />
        </Suspense>
      )}
    />
  );
});
