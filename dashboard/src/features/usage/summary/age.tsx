// `Updated 12 seconds ago`, kept true while it is looked at.
import { useEffect, useState } from "react";

import { formatAge } from "@/text/time";

const SECOND_MS = 1_000;
const MINUTE_MS = 60_000;

interface Props {
  /** When the figures were fetched, in milliseconds since 1970. */
  asOf: number;
}

export function Updated({ asOf }: Props) {
  const age = useAge(asOf);
  return (
    <span className="updated">
      Updated <time dateTime={new Date(asOf).toISOString()}>{formatAge(age)}</time>
    </span>
  );
}

/** Milliseconds since a moment; renders only the component that asks. */
function useAge(since: number): number {
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
