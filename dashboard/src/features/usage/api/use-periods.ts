// `GET /usage/periods`: the kept periods, the newest first.
import { isRecord } from "@/api/client";
import { toHundredths } from "@/text/credits";

import { useOptional } from "./use-optional";

export interface KeptPeriod {
  /** The date of its first message, `2024-04-29`. */
  id: string;
  isOpen: boolean;
  /** Grows with every change of the period. */
  revision: number;
  /** Timestamps of its first and its last message. */
  from: string;
  to: string;
  messages: number;
  hundredths: number;
}

export function usePeriods() {
  return useOptional("periods", { parameters: {}, read: readPeriods, isWanted: true });
}

function readPeriods({ periods }: Record<string, unknown>): KeptPeriod[] | null {
  return Array.isArray(periods) ? periods.flatMap(readItem) : null;
}

function readItem(item: unknown): KeptPeriod[] {
  if (!isRecord(item)) return [];
  const { period, from, to, messages, revision } = item;
  const hundredths = toHundredths(item.credits_used);
  const isWhole =
    typeof period === "string" && typeof from === "string" && typeof to === "string";
  const isCounted = typeof messages === "number" && typeof revision === "number";
  if (!isWhole || !isCounted || hundredths === null) return [];
  const isOpen = item.status === "open";
  return [{ id: period, isOpen, revision, from, to, messages, hundredths }];
}
