// The whole page: asks for the period that the address names, and shows how it stands.
import { ErrorBoundary } from "@/components/error-boundary";
import { usePeriod } from "@/features/period/api/use-period";
import { useView } from "@/view/use-view";

import { Dashboard } from "./dashboard";
import { Header } from "./header";
import { Refusal } from "./refusal";
import { Skeleton } from "./skeleton";

export function App() {
  const [view, changeView] = useView();
  const { data, error, failureCount, isPlaceholderData, refetch } = usePeriod(
    view.plan,
  );
  const retry = () => void refetch();
  return (
    <>
      <Header plan={data?.period.plan ?? null} freshness={data?.freshness ?? null} />
      <main>
        <ErrorBoundary>
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
        </ErrorBoundary>
      </main>
    </>
  );
}
