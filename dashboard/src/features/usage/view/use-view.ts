// The view as React sees it: read from the address, written back to it at each change.
import { useCallback, useEffect, useState } from "react";

import { ignoredOf } from "./ignored";
import { formatView, parseView, type View } from "./view";

export type ChangeView = (change: Partial<View>) => void;

interface Address {
  view: View;
  /** The parts of the address that are not valid, until the view is changed. */
  ignored: readonly string[];
}

/**
 * Return the view, a way to change it, and the parts of the address that it ignores.
 *
 * The address follows the view, without new history.
 */
export function useView(): [View, ChangeView, readonly string[]] {
  const [{ view, ignored }, setAddress] = useState(readAddress);
  useEffect(() => {
    // A link within the page, such as the one to the content, leaves the query as it is.
    const reread = () =>
      setAddress((now) =>
        location.search === formatView(now.view) ? now : readAddress(),
      );
    addEventListener("popstate", reread);
    return () => removeEventListener("popstate", reread);
  }, []);
  useEffect(() => {
    const address = location.pathname + formatView(view) + location.hash;
    history.replaceState(history.state, "", address);
  }, [view]);
  const change = useCallback<ChangeView>(
    (changed) =>
      setAddress((now) => ({ view: { ...now.view, ...changed }, ignored: [] })),
    [],
  );
  return [view, change, ignored];
}

function readAddress(): Address {
  return { view: parseView(location.search), ignored: ignoredOf(location.search) };
}
