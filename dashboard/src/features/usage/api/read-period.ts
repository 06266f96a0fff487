// From the service's answer to rows. Whatever a row holds, the page can show it.
import { isRecord, unreadable, type JsonAnswer } from "@/api/client";
import type { components } from "@/api/schema";
import { toHundredths } from "@/text/credits";
import { dayOf, formatInstant, readInstant } from "@/text/time";

import type { Period, Row } from "../period";

type UsageItem = components["schemas"]["UsageItem"];

/** Reads an answer of `GET /usage`; throws `ApiError` where it has no rows at all. */
export function readPeriod(answer: JsonAnswer): Period {
  const usage = isRecord(answer.body) ? answer.body.usage : null;
  if (!Array.isArray(usage)) {
    throw unreadable(answer, "The service sent no list of messages.");
  }
  const reader = createRowReader();
  const rows = usage.map(reader.read);
  const degraded = Number(answer.headers.get("Usage-Degraded") ?? 0);
  return {
    rows,
    unreadable: reader.unreadable(),
    plan: answer.headers.get("Usage-Plan"),
    degraded: Number.isSafeInteger(degraded) && degraded > 0 ? degraded : 0,
    ...readIdentity(answer.headers),
  };
}

/** Reads `Usage-Period: 2024-04-29/..` or `2024-04-29/2024-05-28`. */
function readIdentity(headers: Headers): Pick<Period, "id" | "isOpen"> {
  const [id = "", end = ".."] = (headers.get("Usage-Period") ?? "").split("/");
  return {
    id: id === "" ? null : id,
    isOpen: end === "..",
  };
}

function createRowReader() {
  let unreadable = 0;
  function read(item: unknown, position: number): Row {
    // Every field may be missing or of another type.
    const said = (isRecord(item) ? item : {}) as {
      [Name in keyof UsageItem]?: unknown;
    };
    const instant =
      typeof said.timestamp === "string" ? readInstant(said.timestamp) : null;
    const hundredths = toHundredths(said.credits_used);
    const isWhole =
      instant !== null &&
      hundredths !== null &&
      isScalar(said.message_id) &&
      isName(said);
    if (!isWhole) unreadable += 1;
    return {
      position,
      messageId: asText(said.message_id),
      instant,
      timestamp: instant === null ? asText(said.timestamp) : formatInstant(instant),
      day: instant === null ? null : dayOf(instant),
      reportName: asText(said.report_name),
      hundredths,
    };
  }
  return { read, unreadable: () => unreadable };
}

function isScalar(value: unknown): value is string | number {
  return typeof value === "string" || typeof value === "number";
}

function isName(item: { report_name?: unknown }): boolean {
  return item.report_name === undefined || typeof item.report_name === "string";
}

function asText(value: unknown): string {
  return isScalar(value) ? String(value) : "";
}
