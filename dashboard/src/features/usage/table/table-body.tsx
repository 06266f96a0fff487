// The rows that are drawn, between the heights of those that are not.
import type { Row as TableRow } from "@tanstack/react-table";
import type { ReactNode } from "react";

import type { Row } from "../period";
import { RowGroup } from "./row-group";
import type { TableWindow } from "./use-table-window";

interface Props {
  rows: TableRow<Row>[];
  window: TableWindow;
  renderDetails: (row: Row) => ReactNode;
}

export function TableBody({ rows, window, renderDetails }: Props) {
  const { first, before, after, measure } = window;
  return (
    <>
      <TableSpacer height={before} />
      {rows.map((row, at) => (
        <RowGroup
          key={row.id}
          row={row}
          index={first + at}
          measure={measure}
          details={row.getIsExpanded() ? renderDetails(row.original) : null}
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
