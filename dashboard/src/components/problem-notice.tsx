// An error beside what it concerns: what happened, what to do, and when to try again.
import { ApiError } from "@/api/client";
import { wordsOf } from "@/text/problems";

import { Countdown } from "./countdown";

interface Props {
  error: Error;
  onRetry?: (() => void) | undefined;
}

export function ProblemNotice({ error, onRetry }: Props) {
  const problem = error instanceof ApiError ? error.problem : null;
  const waitMs = error instanceof ApiError ? error.retryAfterMs : null;
  const words = problem
    ? wordsOf(problem)
    : {
        title: "This page has made a mistake",
        advice: "Try again. If it stays so, tell support what you did.",
      };
  return (
    <div className="problem problem-notice" role="alert">
      <p>
        <b>{words.title}.</b> {words.advice}
        {waitMs !== null && waitMs > 0 && (
          <>
            {" "}
            {/* Another error begins its own countdown. */}
            <Countdown key={problem?.requestId} ms={waitMs} />
          </>
        )}
      </p>
      {problem?.requestId != null && (
        <p className="problem-id">
          Request id: <code>{problem.requestId}</code>
        </p>
      )}
      {onRetry && (
        <button type="button" onClick={onRetry}>
          Try again
        </button>
      )}
    </div>
  );
}
