// Nothing can be shown: the error, and the way out where this page knows one.
import { ApiError } from "@/api/client";
import { ProblemCard } from "@/components/problem-card";
import type { ChangeView } from "@/features/usage/view/use-view";

interface Props {
  error: Error;
  onRetry: () => void;
  onChange: ChangeView;
}

export function Refusal({ error, onRetry, onChange }: Props) {
  const code = error instanceof ApiError ? error.problem.code : null;
  return (
    <>
      <ProblemCard error={error} onRetry={onRetry} />
      {code === "unauthorized" && (
        <p>
          This page cannot send a key. Ask the operator of this service to open the
          scope <code>usage:read</code>, or get the figures from the API with a key of
          yours.
        </p>
      )}
      {code === "unknown_plan" && (
        <p>
          <button type="button" onClick={() => onChange({ plan: null })}>
            Show the default plan
          </button>
        </p>
      )}
    </>
  );
}
