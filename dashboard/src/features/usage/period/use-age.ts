// How old something is by now, told again whenever the words for it change.
import { useEffect, useState } from "react";

const SECOND_MS = 1_000;
const MINUTE_MS = 60_000;

/** Milliseconds since a moment; renders only the component that asks. */
export function useAge(since: number): number {
  const [now, setNow] = useState(() => Date.now());
  const age = Math.max(0, now - since);
  useEffect(() => {
    const pace = age < MINUTE_MS ? SECOND_MS : MINUTE_MS;
    // Ticks fall on the age's own seconds and minutes, so that none is skipped.
    const timer = setTimeout(() => setNow(Date.now()), pace - (age % pace));
    return () => clearTimeout(timer);
  }, [age, since]);
  return age;
}
