// The steps could not be had: why, and another try.
import { ApiError } from "@/api/client";

interface Props {
  error: Error;
  onRetry: () => void;
}

export function ExplanationError({ error, onRetry }: Props) {
  const problem = error instanceof ApiError ? error.problem : null;
  return (
    <div className="explanation" role="alert">
      <p>
        How this price was made cannot be shown. {problem?.title ?? "The page failed"}.{" "}
        {problem?.detail}
      </p>
      {problem?.requestId != null && (
        <p className="problem-id">
          Request id: <code>{problem.requestId}</code>
        </p>
      )}
      <button type="button" onClick={onRetry}>
        Try again
      </button>
    </div>
  );
}
