// Why one message costs what it costs, in words.
import { useRef } from "react";

import { isMessageId, useExplanation } from "../api/use-explanation";
import { ExplanationError } from "./explanation-error";
import { PriceSentence } from "./price-sentence";
import { StepsTable } from "./steps-table";

interface Props {
  /** As the row shows it. */
  messageId: string;
  plan: string | null;
  period: string | null;
  /** The row's price in hundredths of a credit; null where it cannot be read. */
  hundredths: number | null;
}

export function Explanation(props: Props) {
  const box = useRef<HTMLDivElement>(null);
  // The button that is pressed goes with the failure: the focus stays in its place.
  return (
    <div ref={box} tabIndex={-1} className="explanation-box">
      <Steps {...props} onRetry={() => box.current?.focus()} />
    </div>
  );
}

function Steps({
  messageId,
  plan,
  period,
  hundredths,
  onRetry,
}: Props & { onRetry: () => void }) {
  const { data, error, refetch } = useExplanation(messageId, { plan, period });
  const retry = () => {
    onRetry();
    void refetch();
  };
  if (!isMessageId(messageId)) {
    return <p>This message’s id cannot be read, so its steps cannot be shown.</p>;
  }
  if (data) {
    return (
      <div className="explanation">
        <PriceSentence explanation={data} />
        {hundredths !== null && hundredths !== data.hundredths && (
          <p className="notice">
            This id occurs more than once; these steps are of another message with it.
          </p>
        )}
        <StepsTable plan={data.plan} steps={data.steps} />
      </div>
    );
  }
  if (error) return <ExplanationError error={error} onRetry={retry} />;
  return <p role="status">Looking up how this price was made…</p>;
}
