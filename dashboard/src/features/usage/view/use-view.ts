// The view as React sees it: read from the address, written back to it at each change.
import { useCallback, useEffect, useState } from "react";

import { formatView, parseView, type View } from "./view";

export type ChangeView = (change: Partial<View>) => void;

/** The view and a way to change it; the address follows, without new history. */
export function useView(): [View, ChangeView] {
  const [view, setView] = useState(() => parseView(location.search));
  useEffect(() => {
    const reread = () => setView(parseView(location.search));
    addEventListener("popstate", reread);
    return () => removeEventListener("popstate", reread);
  }, []);
  useEffect(() => {
    const address = location.pathname + formatView(view) + location.hash;
    history.replaceState(history.state, "", address);
  }, [view]);
  const change = useCallback<ChangeView>(
    (changed) => setView((now) => ({ ...now, ...changed })),
    [],
  );
  return [view, change];
}
