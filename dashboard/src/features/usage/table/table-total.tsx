// The sum of all rows that the filters let through.
import { useMemo } from "react";

import { formatCredits } from "@/text/credits";

import type { Row } from "../period";
import { sumAll } from "../sums";

interface Props {
  rows: readonly Row[];
  rowIndex: number | undefined;
}

export function TableTotal({ rows, rowIndex }: Props) {
  const { hundredths } = useMemo(() => sumAll(rows), [rows]);
  return (
    <tfoot>
      <tr aria-rowindex={rowIndex}>
        <th scope="row" colSpan={2}>
          Total
        </th>
        {/* On a small screen a large sum needs more than one column. */}
        <td colSpan={2} className="column-credits_used">
          {formatCredits(hundredths)}
        </td>
      </tr>
    </tfoot>
  );
}
