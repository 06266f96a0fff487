// An error as a person sees it: what happened, what to do, what to tell support.
import { ApiError } from "@/api/client";

interface Props {
  error: Error;
  onRetry: () => void;
}

export function ProblemCard({ error, onRetry }: Props) {
  const problem = error instanceof ApiError ? error.problem : null;
  return (
    <div className="card problem" role="alert">
      <h2>{problem?.title ?? "This page has made a mistake"}</h2>
      <p>{problem?.detail ?? "Try again; if it stays, tell support what you did."}</p>
      {problem?.requestId != null && (
        <p className="problem-id">
          Request id: <code>{problem.requestId}</code>
        </p>
      )}
      <button type="button" className="button-primary" onClick={onRetry}>
        Try again
      </button>
    </div>
  );
}
