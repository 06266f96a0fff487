// What was priced, the report or the text, in one sentence.
import { formatCredits } from "@/text/credits";

import type { Explanation } from "../api/use-explanation";

interface Props {
  explanation: Explanation;
}

export function PriceSentence({ explanation }: Props) {
  const { source, reportName, hundredths } = explanation;
  if (source === "text") return <p>No report priced this message, so its text was.</p>;
  return (
    <p>
      This message asked for{" "}
      {reportName === "" ? (
        "a report"
      ) : (
        <>
          the <bdi className="report-name">{reportName}</bdi>
        </>
      )}
      , which costs {formatCredits(hundredths)} credits.
    </p>
  );
}
