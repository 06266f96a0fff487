// An error as a person sees it: what happened, what to do, what to tell support.
import { useEffect, useState } from "react";

import { ApiError } from "@/api/client";
import { wordsOf } from "@/text/problems";

interface Props {
  error: Error;
  /** Whether the request is sent again at the moment. */
  isTrying: boolean;
  onRetry: () => void;
}

const DEFAULT_WAIT_MS = 30_000;
/** Requests have been repeated already, at shorter intervals. */
const SHORTEST_WAIT_MS = 15_000;
const SECOND_MS = 1_000;

export function ProblemCard({ error, isTrying, onRetry }: Props) {
  const problem = error instanceof ApiError ? error.problem : null;
  const words = problem && wordsOf(problem);
  return (
    <div className="card problem" role="alert">
      <h2>{words?.title ?? "This page has made a mistake"}</h2>
      <p>{words?.advice ?? "Try again; if it stays, tell support what you did."}</p>
      {problem?.requestId != null && (
        <p className="problem-id">
          Request id: <code>{problem.requestId}</code>
        </p>
      )}
      {isTrying && <p className="muted">Trying again…</p>}
      {!isTrying && error instanceof ApiError && error.isTemporary && (
        <Countdown
          ms={Math.max(SHORTEST_WAIT_MS, error.retryAfterMs ?? DEFAULT_WAIT_MS)}
          onEnd={onRetry}
        />
      )}
      <button type="button" className="button-primary" onClick={onRetry}>
        Try again
      </button>
    </div>
  );
}

interface CountdownProps {
  ms: number;
  onEnd: () => void;
}

/** The seconds to the next try, which then happens by itself. */
function Countdown({ ms, onEnd }: CountdownProps) {
  const [seconds, setSeconds] = useState(() => Math.ceil(ms / SECOND_MS));
  useEffect(() => {
    const timer = setTimeout(() => {
      if (seconds > 1) setSeconds(seconds - 1);
      else onEnd();
    }, SECOND_MS);
    return () => clearTimeout(timer);
  }, [seconds, onEnd]);
  const minutes = Math.floor(seconds / 60);
  return (
    <p role="timer" className="muted">
      The page tries again in{" "}
      {minutes > 0 ? `${minutes} min ${seconds % 60} s` : `${seconds} s`}.
    </p>
  );
}
