// The rows that the reader opened. They stay open while other rows are drawn or sorted.
import { useCallback, useState } from "react";

import type { Row } from "../period";

export function useOpenRows() {
  const [open, setOpen] = useState<ReadonlySet<string>>(new Set());
  const toggle = useCallback((row: Row) => {
    const key = keyOf(row);
    setOpen((before) => {
      const after = new Set(before);
      if (!after.delete(key)) after.add(key);
      return after;
    });
  }, []);
  return { isOpen: (row: Row) => open.has(keyOf(row)), toggle };
}

/** Return a row's key; another period has other messages in the same places. */
export function keyOf({ position, messageId }: Row): string {
  return `${position} ${messageId}`;
}
