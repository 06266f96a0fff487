// How a column is sorted: an arrow and its priority, and the same in words.
import type { Direction } from "../view/view";

interface Props {
  direction: Direction | null;
  /** Null where no other column sorts. */
  priority: number | null;
}

const ARROWS: Record<Direction, string> = { asc: "▲", desc: "▼" };

export function SortMark({ direction, priority }: Props) {
  if (direction === null) {
    return (
      <span className="sort-mark sort-mark-none" aria-hidden="true">
        ↕
      </span>
    );
  }
  return (
    <>
      <span className="sort-mark" aria-hidden="true">
        {ARROWS[direction]}
        {priority !== null && <span className="sort-priority">{priority}</span>}
      </span>
      <span className="visually-hidden">
        {`sorted ${direction}ending`}
        {priority !== null && `, priority ${priority}`}
      </span>
    </>
  );
}
