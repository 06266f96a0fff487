// What the whole period would cost under each plan.
import { lazy, Suspense, useState } from "react";

// Loaded when plans are compared.
const PlanChoices = lazy(async () => {
  const { PlanChoices: Content } = await import("./plan-choices");
  return { default: Content };
});

export interface ComparePlansProps {
  /** The plan of the view; null is the default. */
  shown: string | null;
  /** Id of a kept period; null is the current one. */
  period: string | null;
  onChoose: (plan: string | null) => void;
}

export function ComparePlans(props: ComparePlansProps) {
  const [isOpen, setOpen] = useState(props.shown !== null);
  return (
    <details
      className="compare-plans"
      open={isOpen}
      onToggle={(event) => setOpen(event.currentTarget.open)}
    >
      <summary>Compare plans</summary>
      {isOpen && (
        <Suspense fallback={<p role="status">Loading the plans…</p>}>
          <PlanChoices {...props} />
        </Suspense>
      )}
    </details>
  );
}
