// The messages on the screen, each of which opens to how its price was made.
import { memo } from "react";

import { Explanation } from "@/features/usage/message/components/explanation";
import { UsageTable } from "@/features/usage/period/components/usage-table";
import type { Row } from "@/features/usage/period/period";
import type { ChangeView } from "@/features/usage/view/use-view";
import { NO_FILTERS, type View } from "@/features/usage/view/view";

interface Props extends Pick<View, "sorting"> {
  /** Those that the filters let through. */
  rows: readonly Row[];
  /** The plan that priced them. */
  plan: string | null;
  onChange: ChangeView;
}

export const Messages = memo(function Messages({
  rows,
  sorting,
  plan,
  onChange,
}: Props) {
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
      onSort={(sorting) => onChange({ sorting })}
      renderDetails={(row) => (
        <Explanation
          messageId={row.messageId}
          plan={plan}
          hundredths={row.hundredths}
        />
      )}
    />
  );
});
