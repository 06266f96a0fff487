// Nothing can be shown: the error, and the way back where a plan of the address is why.
import { ApiError } from "@/api/client";
import { ProblemCard } from "@/components/problem-card";
import type { ChangeView } from "@/view/use-view";

interface Props {
  error: Error;
  onRetry: () => void;
  onChange: ChangeView;
}

export function Refusal({ error, onRetry, onChange }: Props) {
  const isUnknownPlan =
    error instanceof ApiError && error.problem.code === "unknown_plan";
  return (
    <>
      <ProblemCard error={error} onRetry={onRetry} />
      {isUnknownPlan && (
        <p>
          <button type="button" onClick={() => onChange({ plan: null })}>
            Show the default plan
          </button>
        </p>
      )}
    </>
  );
}
