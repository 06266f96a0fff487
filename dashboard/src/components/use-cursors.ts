// The way back through a list whose pages only know the next one.
import { useState } from "react";

export interface Cursors {
  /** That of the current page; null for the first one. */
  current: string | null;
  /** The number of the current page, from 0. */
  page: number;
  goNext: (cursor: string) => void;
  goBack: () => void;
  goFirst: () => void;
}

/** Keep the cursors of the pages that led to the current one, for one list. */
export function useCursors(list: string): Cursors {
  const [state, setState] = useState<{ list: string; stack: string[] }>({
    list,
    stack: [],
  });
  // Another list, such as one with another filter, begins at its first page.
  const stack = state.list === list ? state.stack : [];
  const set = (next: string[]) => setState({ list, stack: next });
  return {
    current: stack.at(-1) ?? null,
    page: stack.length,
    goNext: (cursor) => set([...stack, cursor]),
    goBack: () => set(stack.slice(0, -1)),
    goFirst: () => set([]),
  };
}
