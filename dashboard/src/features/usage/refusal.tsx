// Nothing can be shown: the error, and the way out where this page knows one.
import { ApiError } from "@/api/client";
import { ProblemCard } from "@/components/problem-card";

import type { ChangeView } from "./view/use-view";

interface Props {
  error: Error;
  isTrying: boolean;
  onRetry: () => void;
  onChange: ChangeView;
}

export function Refusal({ error, isTrying, onRetry, onChange }: Props) {
  const code = error instanceof ApiError ? error.problem.code : null;
  return (
    <div className="usage">
      <ProblemCard error={error} isTrying={isTrying} onRetry={onRetry} />
      {code === "unauthorized" && (
        <p>
          Sign in on the page <em>Events</em> with a key that has the scope{" "}
          <code>usage:read</code>, or ask the operator of this service to open it.
        </p>
      )}
      {(code === "unknown_plan" || code === "texts_not_kept") && (
        <p>
          <button type="button" onClick={() => onChange({ plan: null })}>
            Show your plan
          </button>
        </p>
      )}
      {code === "period_not_kept" && (
        <p>
          <button type="button" onClick={() => onChange({ period: null })}>
            Show the current period
          </button>
        </p>
      )}
    </div>
  );
}
