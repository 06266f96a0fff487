// `GET /usage/forecast`: the credits that the current period is expected to use.
import { toHundredths } from "@/text/credits";

import { useOptional } from "./use-optional";

/** Credits in hundredths, at the end of the period. */
export interface Forecast {
  expected: number;
  low: number;
  high: number;
  /** The part of all periods that end within the band, such as 0.8. */
  confidence: number;
  /** Timestamp of the end of the period. */
  ends: string;
}

export function useForecast(isWanted: boolean) {
  return useOptional("forecast", { parameters: {}, read: readForecast, isWanted });
}

/** Without a reason for no forecast: too early, or no end known. */
function readForecast(body: Record<string, unknown>): Forecast | null {
  const { confidence, ends } = body;
  const expected = toHundredths(body.expected);
  const [low, high] = [toHundredths(body.low), toHundredths(body.high)];
  if (expected === null || low === null || high === null) return null;
  if (typeof confidence !== "number" || typeof ends !== "string") return null;
  return { expected, low, high, confidence, ends };
}
