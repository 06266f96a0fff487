// The page's head: its name, the plan in force, and how old the figures are.
import type { Freshness } from "@/api/freshness";
import { Updated } from "@/features/period/components/updated";
import { planName } from "@/text/plans";

interface Props {
  plan: string | null;
  freshness: Freshness | null;
}

export function Header({ plan, freshness }: Props) {
  return (
    <header className="page-header">
      <h1>Copilot usage</h1>
      {freshness && (
        <p className="page-facts">
          {plan !== null && <span>{planName(plan)} plan</span>}
          <Updated asOf={freshness.asOf} />
        </p>
      )}
    </header>
  );
}
