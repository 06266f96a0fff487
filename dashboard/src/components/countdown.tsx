// The time until a request may be sent again, as it passes.
import { useEffect, useState } from "react";

import { formatWait } from "@/text/wait";

export function Countdown({ ms }: { ms: number }) {
  const [end] = useState(() => Date.now() + ms);
  const [left, setLeft] = useState(ms);
  useEffect(() => {
    const timer = setInterval(() => setLeft(end - Date.now()), 1_000);
    return () => clearInterval(timer);
  }, [end]);
  return (
    // Read out once with its notice, and not each second.
    <span aria-live="off">
      {left > 0
        ? `The service asks you to wait ${formatWait(left)}.`
        : "You can try again now."}
    </span>
  );
}
