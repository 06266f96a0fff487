// What is shown while vPIC is asked, which may take long.
import { useEffect, useState } from "react";

import { countOf } from "@/text/credits";

/** vPIC mostly answers within so many seconds. */
const USUAL_S = 5;

interface Props {
  count: number;
  onCancel: () => void;
}

export function Waiting({ count, onCancel }: Props) {
  const [seconds, setSeconds] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => setSeconds((now) => now + 1), 1_000);
    return () => clearInterval(timer);
  }, []);
  const isSlow = seconds >= USUAL_S;
  return (
    <section className="card waiting">
      <progress aria-label="Look-up" />
      <p>
        {/* Read out when the state changes, and not each second. */}
        <span role="status">
          Looking up {countOf(count, "VIN")}…
          {isSlow && " vPIC is slow at the moment; it may take half a minute."}
        </span>{" "}
        {isSlow && <span aria-hidden="true">{seconds} s</span>}
      </p>
      <button type="button" onClick={onCancel}>
        Cancel
      </button>
    </section>
  );
}
