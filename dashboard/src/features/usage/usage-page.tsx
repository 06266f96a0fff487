// The Usage page: requests the period that the address names, and shows its state.
import { Page } from "@/components/page";
import { useView } from "@/features/usage/view/use-view";

import { usePeriod } from "./period/api/use-period";
import { Dashboard } from "./dashboard";
import { Facts } from "./facts";
import { Refusal } from "./refusal";
import { Skeleton } from "./skeleton";

export function UsagePage() {
  const [view, changeView] = useView();
  const { data, error, failureCount, isPlaceholderData, refetch } = usePeriod(
    view.plan,
  );
  const retry = () => void refetch();
  return (
    <Page
      title="Copilot usage"
      facts={data && <Facts plan={data.period.plan} freshness={data.freshness} />}
    >
      {data ? (
        <Dashboard
          period={data.period}
          freshness={data.freshness}
          error={error}
          isChangingPlan={isPlaceholderData}
          onRetry={retry}
          view={view}
          onChange={changeView}
        />
      ) : error ? (
        <Refusal error={error} onRetry={retry} onChange={changeView} />
      ) : (
        <Skeleton isRetrying={failureCount > 0} />
      )}
    </Page>
  );
}
