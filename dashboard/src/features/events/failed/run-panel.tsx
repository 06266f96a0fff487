// The progress of a replay or discard, and its result.
import { ProblemNotice } from "@/components/problem-notice";
import { countOf, formatCount } from "@/text/credits";

import { doneOf, MAX_COUNTED, percentOf, type Progress, type RunKind } from "./run";
import type { RunState } from "./use-run";

interface Props {
  state: RunState;
  onStop: () => void;
  onContinue: () => void;
}

export function RunPanel({ state, onStop, onContinue }: Props) {
  const { kind, progress, status, error } = state;
  const percent = percentOf(progress);
  const isRunning = status === "running" || status === "stopping";
  const verb = kind === "replay" ? "Replaying" : "Discarding";
  return (
    <div className="run-panel">
      {isRunning && (
        <>
          <progress
            aria-label={`${verb} failed events`}
            max={100}
            {...(percent === null ? {} : { value: percent })}
          />
          <button type="button" disabled={status === "stopping"} onClick={onStop}>
            {status === "stopping" ? "Stopping after this step…" : "Stop"}
          </button>
        </>
      )}
      <p role="status">
        {isRunning && `${verb}: ${describe(kind, progress)}${rest(progress)}`}
        {status === "done" && `Done: ${describe(kind, progress)}.`}
        {status === "stopped" &&
          `Stopped: ${describe(kind, progress)}${rest(progress)}. What is done stays done.`}
      </p>
      {status === "stopped" && (
        <button type="button" onClick={onContinue}>
          Continue
        </button>
      )}
      {error && (
        <>
          <p>Before the error: {describe(kind, progress)}. That stays done.</p>
          <ProblemNotice error={error} onRetry={onContinue} />
        </>
      )}
    </div>
  );
}

function describe(kind: RunKind, progress: Progress): string {
  if (kind === "discard") return `${countOf(progress.discarded, "event")} discarded`;
  const { accepted, duplicates, failed } = progress;
  const parts = [`${countOf(accepted, "event")} accepted`];
  if (duplicates > 0) parts.push(`${formatCount(duplicates)} stored before`);
  if (failed > 0) parts.push(`${formatCount(failed)} still invalid`);
  return parts.join(", ");
}

function rest(progress: Progress): string {
  const { remaining } = progress;
  if (remaining === null || doneOf(progress) === 0) return "";
  const isMore = remaining >= MAX_COUNTED;
  return `, ${formatCount(remaining)}${isMore ? " or more" : ""} to go`;
}
