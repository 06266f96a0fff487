// A callback that stays the same while what it does may change.
import { useCallback, useLayoutEffect, useRef } from "react";

/** For handlers of events only: it does what the last finished rendering gave it. */
export function useSteady<Argument>(
  handle: (argument: Argument) => void,
): (argument: Argument) => void {
  const latest = useRef(handle);
  useLayoutEffect(() => {
    latest.current = handle;
  });
  return useCallback((argument) => latest.current(argument), []);
}
