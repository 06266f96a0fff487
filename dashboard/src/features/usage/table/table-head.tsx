// The columns' titles; those that sort are buttons.
import { flexRender, type Header } from "@tanstack/react-table";

import type { Row } from "../period";
import { SortHeader } from "./sort-header";

interface Props {
  headers: Header<Row, unknown>[];
}

export function TableHead({ headers }: Props) {
  return (
    <thead>
      <tr aria-rowindex={1}>
        {headers.map((header) =>
          header.column.getCanSort() ? (
            <SortHeader key={header.id} header={header} />
          ) : (
            <th key={header.id} scope="col" className={`column-${header.id}`}>
              {flexRender(header.column.columnDef.header, header.getContext())}
            </th>
          ),
        )}
      </tr>
    </thead>
  );
}
