// The state of a replay or discard that is under way, or has ended.
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useCallback, useEffect, useRef, useState } from "react";

import type { Selection } from "./failed-events";
import { NOTHING_DONE, run, type Progress, type RunKind } from "./run";

export interface RunState {
  kind: RunKind;
  progress: Progress;
  status: "running" | "stopping" | "stopped" | "done" | "failed";
  error: Error | null;
}

export interface Run {
  state: RunState | null;
  isRunning: boolean;
  /** Begin a run, or continue one that was stopped or has failed. */
  start: (kind: RunKind, selection: Selection, before?: Progress) => void;
  stop: () => void;
}

export function useRun(): Run {
  const client = useQueryClient();
  const [state, setState] = useState<RunState | null>(null);
  // As a mutation, so that a refusal of its requests has the session looked at.
  const { mutateAsync } = useMutation({
    mutationFn: (work: () => Promise<void>) => work(),
  });
  const controller = useRef<AbortController | null>(null);
  // A page that is left begins no further step.
  useEffect(() => () => controller.current?.abort(), []);

  const start = useCallback(
    (kind: RunKind, selection: Selection, before = NOTHING_DONE) => {
      const own = new AbortController();
      controller.current = own;
      const set = (change: Partial<RunState>) =>
        setState((now) => ({
          ...(now ?? { progress: before, status: "running", error: null }),
          ...change,
          kind,
        }));
      set({ progress: before, status: "running", error: null });
      const work = async () => {
        let isDone = false;
        for await (const progress of run(kind, selection, own.signal, before)) {
          set({ progress });
          isDone = progress.next === null;
        }
        set({ status: own.signal.aborted && !isDone ? "stopped" : "done" });
      };
      void mutateAsync(work)
        .catch((error: unknown) =>
          set({
            status: "failed",
            error: error instanceof Error ? error : new Error(String(error)),
          }),
        )
        .finally(() => void client.invalidateQueries({ queryKey: ["failed"] }));
    },
    [client, mutateAsync],
  );
  const stop = useCallback(() => {
    controller.current?.abort();
    setState((now) =>
      now?.status === "running" ? { ...now, status: "stopping" } : now,
    );
  }, []);
  const isRunning = state?.status === "running" || state?.status === "stopping";
  return { state, isRunning, start, stop };
}
