// The columns' titles; those that sort are buttons.
import { SORT_COLUMNS, type ColumnSort } from "../view/view";
import { COLUMN_TITLES } from "./columns";
import { SortHeader } from "./sort-header";

interface Props {
  sorting: readonly ColumnSort[];
  /** Name of the time zone of the timestamps. */
  zone: string;
  onSort: (sorting: ColumnSort[]) => void;
}

const [MESSAGE_ID, TIMESTAMP] = COLUMN_TITLES;

export function TableHead({ sorting, zone, onSort }: Props) {
  return (
    <thead>
      <tr aria-rowindex={1}>
        <th scope="col" className="column-message_id">
          {MESSAGE_ID}
        </th>
        <th scope="col" className="column-timestamp">
          {TIMESTAMP} <span className="column-note">({zone})</span>
        </th>
        {SORT_COLUMNS.map((column) => (
          <SortHeader key={column} column={column} sorting={sorting} onSort={onSort} />
        ))}
      </tr>
    </thead>
  );
}
