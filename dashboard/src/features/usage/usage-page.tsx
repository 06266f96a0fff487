// The Usage page: requests the period that the address names, and shows its state.
import { lazy, Suspense } from "react";

import { Page } from "@/components/page";
import { planName } from "@/text/plans";

import { useLastError } from "./api/use-last-error";
import { usePeriod } from "./api/use-period";
import { useIsWhatIf } from "./plans/what-if";
import { Skeleton } from "./skeleton";
import { Updated } from "./summary/age";
import { useContextFigures } from "./use-context-figures";
import { UsageView } from "./usage-view";
import { useView } from "./view/use-view";

// The words of all problems are needed only where there is one.
const Refusal = lazy(async () => {
  const { Refusal: Content } = await import("./refusal");
  return { default: Content };
});

export function UsagePage() {
  const [view, changeView, ignored] = useView();
  const answer = usePeriod({ plan: view.plan, period: view.period });
  const { data, error, failureCount, isFetching, isPlaceholderData, refetch } = answer;
  const context = useContextFigures(data?.period ?? null, view);
  const isWhatIf = useIsWhatIf(view.plan);
  // A longer outage must not show its error and the skeleton in turn.
  const lastError = useLastError(error, JSON.stringify([view.plan, view.period]));
  const retry = () => void refetch();
  const plan = data?.period.plan ?? null;
  return (
    <Page
      title="Copilot usage"
      facts={
        data && (
          <>
            {plan !== null && (
              <span>
                {planName(plan)} {isWhatIf ? "(not your plan)" : "plan"}
              </span>
            )}
            <Updated asOf={data.freshness.asOf} />
            <span className="refreshing">{isFetching ? "Refreshing…" : ""}</span>
          </>
        )
      }
    >
      {data && context.isReady ? (
        <UsageView
          answer={data}
          context={context}
          error={error}
          isChanging={isPlaceholderData}
          isWhatIf={isWhatIf}
          ignored={ignored}
          onRetry={retry}
          view={view}
          onChange={changeView}
        />
      ) : lastError ? (
        <Suspense>
          <Refusal
            error={lastError}
            isTrying={isFetching}
            onRetry={retry}
            onChange={changeView}
          />
        </Suspense>
      ) : (
        <Skeleton isRetrying={failureCount > 0} />
      )}
    </Page>
  );
}
