// The error of a question, which TanStack Query forgets when it asks again.
import { useState } from "react";

/** Return the last error for `question`, also while the next request for it runs. */
export function useLastError(error: Error | null, question: string): Error | null {
  const [last, setLast] = useState({ error, question });
  if (last.question !== question || (error !== null && error !== last.error)) {
    setLast({ error, question });
    return error;
  }
  return error ?? last.error;
}
