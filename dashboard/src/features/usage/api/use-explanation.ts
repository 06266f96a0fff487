// `GET /usage/{message_id}`: why one message costs what it costs.
import { useQuery } from "@tanstack/react-query";

import { getJson, isRecord, unreadable, type JsonAnswer } from "@/api/client";
import type { components } from "@/api/schema";
import { freshnessOf } from "@/api/freshness";
import { toHundredths } from "@/text/credits";

export type Source = components["schemas"]["Explanation"]["source"];

/** One step of a price; both amounts in hundredths of a credit. */
export interface Step {
  name: string;
  hundredths: number;
  total: number;
}

export interface Explanation {
  source: Source;
  reportName: string;
  plan: string;
  hundredths: number;
  steps: Step[];
  staleTimeMs: number;
}

export interface ExplanationParameters {
  plan: string | null;
  /** Id of a kept period; null is the current one. */
  period: string | null;
}

/** Messages have whole numbers as ids; `..` or `daily` would ask something else. */
export function isMessageId(text: string): boolean {
  return /^-?\d+$/.test(text);
}

/** The explanation of one message under a plan. */
export function useExplanation(messageId: string, parameters: ExplanationParameters) {
  return useQuery({
    queryKey: ["explanation", messageId, parameters],
    queryFn: ({ signal }) => fetchExplanation(messageId, parameters, signal),
    enabled: isMessageId(messageId),
    staleTime: (query) => query.state.data?.staleTimeMs ?? 0,
  });
}

async function fetchExplanation(
  messageId: string,
  parameters: ExplanationParameters,
  signal: AbortSignal,
): Promise<Explanation> {
  const path = `/usage/${encodeURIComponent(messageId)}`;
  return readExplanation(await getJson(path, { ...parameters }, signal));
}

function readExplanation(answer: JsonAnswer): Explanation {
  const said = isRecord(answer.body) ? answer.body : {};
  const steps: unknown[] = Array.isArray(said.steps) ? said.steps : [];
  const hundredths = toHundredths(said.credits_used);
  if (hundredths === null || (said.source !== "report" && said.source !== "text")) {
    throw unreadable(answer, "The service sent no explanation of this price.");
  }
  return {
    source: said.source,
    reportName: typeof said.report_name === "string" ? said.report_name : "",
    plan: typeof said.plan === "string" ? said.plan : "",
    hundredths,
    steps: steps.flatMap(readStep),
    staleTimeMs: freshnessOf(answer.headers, Date.now()).staleTimeMs,
  };
}

function readStep(value: unknown): Step[] {
  if (!isRecord(value) || typeof value.step !== "string") return [];
  const [hundredths, total] = [toHundredths(value.credits), toHundredths(value.total)];
  if (hundredths === null || total === null) return [];
  return [{ name: value.step, hundredths, total }];
}
