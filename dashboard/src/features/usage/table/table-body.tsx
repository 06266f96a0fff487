// The rows that are drawn, between the heights of those that are not.
import type { ReactNode } from "react";

import type { Row } from "../period";
import { RowGroup } from "./row-group";
import { keyOf, useOpenRows } from "./use-open-rows";
import type { TableWindow } from "./use-table-window";

interface Props {
  window: TableWindow;
  renderDetails: (row: Row) => ReactNode;
}

export function TableBody({ window, renderDetails }: Props) {
  const { rows, first, before, after, measure } = window;
  const { isOpen, toggle } = useOpenRows();
  return (
    <>
      <TableSpacer height={before} />
      {rows.map((row, at) => (
        <RowGroup
          key={keyOf(row)}
          row={row}
          index={first + at}
          measure={measure}
          details={isOpen(row) ? renderDetails(row) : null}
          onToggle={toggle}
        />
      ))}
      <TableSpacer height={after} />
    </>
  );
}

/** The height of rows that are not drawn. */
function TableSpacer({ height }: { height: number }) {
  if (height <= 0) return null;
  return (
    <tbody className="table-spacer" aria-hidden="true">
      <tr>
        <td colSpan={4} style={{ height }} />
      </tr>
    </tbody>
  );
}
