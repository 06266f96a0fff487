// `GET /usage/periods`: the kept periods, the newest first.
import { isRecord } from "@/api/client";
import { toHundredths } from "@/text/credits";

import { useOptional } from "./use-optional";

export interface KeptPeriod {
  /** The date of its first message, `2024-04-29`. */
  id: string;
  isOpen: boolean;
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
  const { period, from, to, messages } = item;
  const hundredths = toHundredths(item.credits_used);
  const isWhole =
    typeof period === "string" && typeof from === "string" && typeof to === "string";
  if (!isWhole || hundredths === null || typeof messages !== "number") return [];
  return [
    { id: period, isOpen: item.status === "open", from, to, messages, hundredths },
  ];
}
